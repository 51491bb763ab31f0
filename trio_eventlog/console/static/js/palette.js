// The colour of each type of event: the same for as long as the page is open.

const FAILURE =
  /(^|[^a-z])(fail(ed|ure|s)?|err(or)?|exception|crash(ed)?|critical|fatal|abort(ed)?|given_up|timed?_?out|rejected|denied|panic)($|[^a-z])/i;
const WARNING = /(^|[^a-z])(warn(ing)?|slow|retry(ing)?|retried|cancel(l?ed)?|suppressed|degraded|stale)($|[^a-z])/i;
const TONES = 8;

/** Gives names colours; the first ones get colours of their own. */
export class Palette {
  /** @type {Map<string, number>} */
  #given = new Map();

  /**
   * The class that sets `--tone` to the colour of a name.
   *
   * @param {string} name
   */
  toneOf(name) {
    let tone = this.#given.get(name);
    if (tone === undefined) {
      tone = this.#choose(name);
      this.#given.set(name, tone);
    }
    return tone > 0 ? `tone-${tone}` : "tone-other";
  }

  /**
   * A colour that depends on the name, so that it is the same the next time; unless another name has it.
   *
   * @param {string} name
   */
  #choose(name) {
    if (this.#given.size >= TONES) return 0;
    let tone = 7;
    for (let index = 0; index < name.length; index++) tone = (tone * 31 + name.charCodeAt(index)) >>> 0;
    const taken = new Set(this.#given.values());
    do tone = (tone % TONES) + 1;
    while (taken.has(tone));
    return tone;
  }
}

const types = new Palette();

/** @param {string} type */
export const isFailure = (type) => FAILURE.test(type);

/**
 * The class that sets `--tone` to the colour of a type.
 *
 * @param {string} type
 */
export function toneOf(type) {
  if (FAILURE.test(type)) return "tone-failure";
  if (WARNING.test(type)) return "tone-warning";
  return types.toneOf(type);
}
