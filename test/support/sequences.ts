/** How many random sequences of operations to try: `SEQUENCES`, by default as many as suit every run of the tests. */
export const sequenceCount = Number(process.env['SEQUENCES'] ?? 50)
