/** The last moment of the year 9999, in milliseconds since the epoch: no later one is written with four digits for the year. */
export const latestTime = Date.UTC(10_000, 0) - 1
