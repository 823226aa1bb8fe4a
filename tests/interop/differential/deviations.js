// Where ours differs from Node's, and why: by the title of the script, the lines of the transcript
// that only Node's has (`- `) and those that only ours has (`+ `).
//
// A deviation that is no longer there, or is another one, fails.

export const deviations = {};
