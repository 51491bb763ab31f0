// The colour of each type of event: the same for as long as the page is open.

const FAILURE =
  /(^|[^a-z])(fail(ed|ure|s)?|err(or)?|exception|crash(ed)?|critical|fatal|abort(ed)?|given_up|timed?_?out|rejected|denied|panic)($|[^a-z])/i;
const WARNING = /(^|[^a-z])(warn(ing)?|slow|retry(ing)?|retried|cancel(l?ed)?|suppressed|degraded|stale)($|[^a-z])/i;
const TONES = 8;

/** @type {Map<string, number>} */
const given = new Map();
/** @type {Set<number>} */
const taken = new Set();

/**
 * A colour that depends on the name, so that it is the same the next time; unless another type has it.
 *
 * @param {string} type
 */
function choose(type) {
  let hash = 7;
  for (let index = 0; index < type.length; index++) hash = (hash * 31 + type.charCodeAt(index)) >>> 0;
  for (let step = 0; step < TONES; step++) {
    const tone = ((hash + step) % TONES) + 1;
    if (!taken.has(tone)) return tone;
  }
  return TONES + 1;
}

/** @param {string} type */
export const isFailure = (type) => FAILURE.test(type);

/**
 * The class that sets `--tone` to the colour of a type. The first types that it is asked for get colours of
 * their own.
 *
 * @param {string} type
 */
export function toneOf(type) {
  if (FAILURE.test(type)) return "tone-failure";
  if (WARNING.test(type)) return "tone-warning";
  let tone = given.get(type);
  if (tone === undefined) {
    tone = choose(type);
    taken.add(tone);
    given.set(type, tone);
  }
  return tone <= TONES ? `tone-${tone}` : "tone-other";
}
