// Shape of a result before it exists, so that nothing moves when it arrives.

import { pixelsOf, sidesOf } from "../form/size.js";

const BY_KIND = { image: [4, 3], video: [16, 9], audio: [4, 1] };

/** Width and height of the results of `input`, in any unit. `defaults` are the schema's, by name;
 * `source` are the sides of the input image, or null. */
export function aspectOf(input, defaults, makes, source = null) {
  const asked = { ...defaults, ...input };
  return (
    pixelsOf(asked.image_size) ??
    pixelsOf(asked) ??
    sidesOf(asked.aspect_ratio) ??
    source ??
    BY_KIND[makes] ??
    BY_KIND.image
  );
}
