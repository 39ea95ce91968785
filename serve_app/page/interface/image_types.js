/** Media types of images that browsers show without executing them: what Darkroom reads, but TIFF. */
export const SHOWN_IMAGES = /^image\/(?:png|jpeg|webp|gif|avif|bmp)$/;
