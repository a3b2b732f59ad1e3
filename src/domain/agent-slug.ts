import { ValidationProblem } from './errors.ts'

/** Characters of a slug. Models are told of agents by names that hold it, which may have 64. */
const longest = 50

/** `slug` when it is small letters, digits and single hyphens between them; else throws a ValidationProblem. */
export function checkSlug(slug: string): string {
  if (slug.length <= longest && /^[a-z0-9]+(-[a-z0-9]+)*$/.test(slug)) return slug
  throw new ValidationProblem(
    ['slug'],
    `A slug has at most ${longest} small letters and digits, with single hyphens between them.`,
  )
}

/** A slug that tells of the name, as `help-desk` of "Help desk", and with a number, as `help-desk-2`, where it is taken. */
export function freeSlug(name: string, taken: ReadonlySet<string>): string {
  const plain = hyphenated(name.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase(), longest) || 'agent'
  let slug = plain
  for (let number = 2; taken.has(slug); number++) slug = `${hyphenated(plain, longest - `-${number}`.length)}-${number}`
  return slug
}

function hyphenated(text: string, most: number): string {
  return text
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-/, '')
    .slice(0, most)
    .replace(/-$/, '')
}
