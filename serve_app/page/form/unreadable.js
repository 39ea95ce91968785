// Error of a form control.

/** Invalid content of a control. The message is for the user. */
export class Unreadable extends Error {}
