/** What one client, or all of them, may make this process do. */
export type Limits = {
  /** Bytes of an HTTP body or a socket message. Default 4 MiB. */
  bodyBytes: number
  /** Tokens of a document. Default 2,000. */
  tokens: number
  /** Levels of fields. Default 12. */
  depth: number
  /** Fields of the operation itself, aliases counted one by one. Default 20. */
  rootFields: number
  /** Fields of a document once its fragments are spread out, aliases counted one by one. Default 500. */
  fields: number
  /** Fields of the answer, if every page is as long as was asked for. Default 100,000. */
  cost: number
  /** Operations in progress on one socket, and as many again that it gave up and that have not ended yet. Default 100. */
  operationsPerSocket: number
  /** Subscriptions in progress in this process. Default 10,000. */
  subscriptions: number
  /** Those of one tenant. Default 2,000. */
  subscriptionsPerTenant: number
  /** Archives and ledgers that this process sends at a time: each holds a connection to the database. Default 3. */
  exports: number
  /**
   * Until an operation of a tenant is answered in any case, in milliseconds, from the check of its credentials on. A subscription is
   * answered when it has begun. What operators do may take longer. Default 2,500.
   */
  answerMs: number
  /** Until a new socket must have sent its credentials, in milliseconds. Default 5,000. */
  connectionInitMs: number
  /** Between signs of life to the client, in milliseconds. A socket that does not answer within as long is closed. Default 12,000. */
  keepAliveMs: number
  /** Until a client that neither sends nor takes a byte is cut off, in milliseconds: what it does not take is held in memory. Default 60,000. */
  stalledMs: number
  /** Between two looks for changed access of those who have connections open, in milliseconds. Default 500. */
  pollMs: number
}

export const defaultLimits: Limits = {
  bodyBytes: 4 * 1024 * 1024,
  tokens: 2_000,
  depth: 12,
  rootFields: 20,
  fields: 500,
  cost: 100_000,
  operationsPerSocket: 100,
  subscriptions: 10_000,
  subscriptionsPerTenant: 2_000,
  exports: 3,
  answerMs: 2_500,
  connectionInitMs: 5_000,
  keepAliveMs: 12_000,
  stalledMs: 60_000,
  pollMs: 500,
}
