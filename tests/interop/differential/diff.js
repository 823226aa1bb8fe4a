// What differs between two transcripts: `- ` begins a line of the first, `+ ` one of the second.

export function diff(first, second) {
  const differs = [];
  let [i, j] = [0, 0];
  const common = commons(first, second);
  while (i < first.length || j < second.length) {
    if (i < first.length && first[i] === second[j]) {
      [i, j] = [i + 1, j + 1];
    } else if (j === second.length || (i < first.length && common[i + 1][j] >= common[i][j + 1])) {
      differs.push(`- ${first[i++].trim()}`);
    } else {
      differs.push(`+ ${second[j++].trim()}`);
    }
  }
  return differs;
}

/** How many lines the tails from `i` and from `j` have in common. */
function commons(first, second) {
  const table = Array.from({ length: first.length + 1 }, () => Array(second.length + 1).fill(0));
  for (let i = first.length - 1; i >= 0; i--) {
    for (let j = second.length - 1; j >= 0; j--) {
      table[i][j] =
        first[i] === second[j]
          ? table[i + 1][j + 1] + 1
          : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  return table;
}
