// Error of a form control.

/** Invalid content of a control. The message is for the user. */
export class Unreadable extends Error {}

/** What a control has: `{value}`, or `{text, parts}` if that cannot be read as a value. */
export function hold(control) {
  try {
    return { value: control.read() };
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    return { text: control.target.value ?? "", parts: control.parts?.() };
  }
}

/** Enters what `hold` returned. Files whose upload had not ended are uploaded again. */
export function bringBack(control, { value, text, parts }) {
  control.write(value);
  if (parts !== undefined) control.join(parts);
  else if (text !== undefined) control.target.value = text;
}
