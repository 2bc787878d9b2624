// What a reload keeps, for one tab.

/** Keep a value, and return whether the browser has room for it: most have a few MB. */
export function keep(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    forget(key);
    return false;
  }
}

/** Return what is kept; null where nothing is, or an older version of the page has kept it in another way. */
export function kept(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key));
  } catch {
    return null;
  }
}

export const forget = (key) => sessionStorage.removeItem(key);
