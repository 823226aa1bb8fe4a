// What a script is made of.

import { createHash } from "node:crypto";

/**
 * A script for the server of a configuration; its title says what it shows. Those for `alone` and
 * `shutdown` have the server for themselves.
 */
export function script(title, on, steps) {
  const word = `s${createHash("sha1").update(title).digest("hex").slice(0, 8)}`;
  return { title, on, steps, word };
}
