// Short texts that the browser keeps. Where it refuses, as with all site data blocked, they end with the page.

const refused = new Map();

/**
 * A text, or null.
 * @param {"localStorage"|"sessionStorage"} area
 * @param {string} name
 */
export function recall(area, name) {
  try {
    return refused.get(area + name) ?? window[area].getItem(name);
  } catch {
    return null;
  }
}

/** Keep a text; null forgets it. */
export function remember(area, name, text) {
  refused.delete(area + name);
  try {
    if (text === null) window[area].removeItem(name);
    else window[area].setItem(name, text);
  } catch {
    if (text !== null) refused.set(area + name, text);
  }
}
