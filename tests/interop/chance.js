/** Numbers by chance, the same in each run. */
export class Chance {
  constructor(seed) {
    this.state = seed;
  }

  below(end) {
    // The generator "mulberry32".
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % end;
  }

  of(list) {
    return list[this.below(list.length)];
  }
}
