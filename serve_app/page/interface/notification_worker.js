// Service worker of the page's notifications: browsers of phones show them from here only. It caches
// nothing, and no request passes through it.

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(event.notification.data.url));
});

/** Goes to the address of a request in a page that is open, or opens one. */
async function open(url) {
  const { pathname, hash } = new URL(url);
  const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const page = pages.find((each) => new URL(each.url).pathname === pathname);
  if (page === undefined) return await self.clients.openWindow(url);
  page.postMessage({ hash });
  await page.focus();
}
