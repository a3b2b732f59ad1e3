/** How many workers are killed. The other faults are tried as many times as fits: once in a short run. Default 20. */
export const kills = Number(process.env['KILLS'] ?? 20)

/** How often everything but the kills of workers is tried. */
export const rounds = Math.max(1, Math.round(kills / 100))

/** What a test may take on a machine that has other things to do, in milliseconds. */
export const longest = 900_000
