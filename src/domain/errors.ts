/** Expected failures. The schema turns each into the problem type of the same code; anything else thrown is a bug and is masked. */
export class Problem extends Error {
  readonly code: 'VALIDATION' | 'NOT_FOUND' | 'FORBIDDEN' | 'CONFLICT'

  constructor(code: Problem['code'], message: string) {
    super(message)
    this.name = new.target.name
    this.code = code
  }
}

/** The input breaks a rule. `path` names the input field, as in `['content']`. */
export class ValidationProblem extends Problem {
  readonly path: readonly string[]

  constructor(path: readonly string[], message: string) {
    super('VALIDATION', message)
    this.path = path
  }
}

/** There is no such thing here: it does not exist, or it is another tenant's. The two are never told apart. */
export class NotFound extends Problem {
  /** `noun` is what was looked for, as in `'conversation'`; ids are never repeated. */
  constructor(noun: string) {
    super('NOT_FOUND', `There is no such ${noun}.`)
  }
}

/** The actor is known and may not do this. */
export class Forbidden extends Problem {
  constructor(message = 'Your role does not allow this.') {
    super('FORBIDDEN', message)
  }
}

/** It contradicts what is already there. */
export class Conflict extends Problem {
  constructor(message: string) {
    super('CONFLICT', message)
  }
}

/** Something this needs cannot be reached now. Not a problem of the request: the same request may succeed later. */
export class Unavailable extends Error {
  readonly retryAfterSeconds: number

  constructor(message: string, retryAfterSeconds: number, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'Unavailable'
    this.retryAfterSeconds = retryAfterSeconds
  }
}
