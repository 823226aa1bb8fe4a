// What a script is made of.

let count = 0;

/**
 * A script for the server of a configuration; its title says what it shows. Those for `alone` and
 * `shutdown` have the server for themselves.
 */
export function script(title, on, steps) {
  return { title, on, steps, word: `s${count++}` };
}
