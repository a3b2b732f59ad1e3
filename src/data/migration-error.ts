/** The database cannot be brought to this version. The message is one line that says why and what to do; nothing is half-done. */
export class MigrationError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'MigrationError'
  }
}
