import type { Admission } from './admission.ts'
import type { TenantId } from './ids.ts'
import type { Cursor, LoggedEvent, RunEvent, TokenUsage } from './run-event.ts'
import type { Host, Place } from './run-place.ts'
import type { StoredTool, ToolDefinitions, ToolInputs } from './tool-definition.ts'

/** What the domain needs from the outside. `app.ts` alone decides which implementation is behind each. */
export type Ports = {
  eventLog: EventLog
  signals: Signals
  runQueue: RunQueue
  admission: Admission
  model: Model
  modelSlots: ModelSlots
  tools: Toolbox
  vault: Vault
  egress: Egress
  courier: Courier
  /** Given what goes wrong where nobody waits for it. Never throws. */
  report: (error: unknown) => void
  /** The clock: milliseconds since the epoch. */
  now: () => number
}

export type RunRef = { tenantId: TenantId; runId: string }

/** Ends a subscription. Resolves once nothing more will be delivered. Calling it again does nothing. */
export type Unsubscribe = () => Promise<void>

/**
 * The live, replayable stream of each run's events. It is disposable: losing it loses no message, since
 * what matters is in Postgres. Entries live 15 minutes after the last append, 2 minutes after a terminal event.
 */
export type EventLog = {
  /**
   * Appends `events` as `(epoch, firstSeq)`, `(epoch, firstSeq + 1)`, …, all or nothing, and delivers them to subscribers.
   * A higher epoch than the log's starts again at seq 1. Safe to repeat: what is already there is skipped.
   */
  append(run: RunRef, epoch: number, firstSeq: number, events: RunEvent[]): Promise<AppendOutcome>

  /** Everything after `after`, in order; `after: null` means from the start. */
  read(run: RunRef, after: Cursor | null): Promise<Backlog>

  /**
   * Delivers every append from the moment the promise resolves, in order, at least once.
   * `onLost` is called when appends may have been missed (a broken connection): read again from the last cursor.
   */
  subscribe(run: RunRef, onEvents: (events: LoggedEvent[]) => void, onLost: () => void): Promise<Unsubscribe>

  /** Of how many of the tenant's runs it holds events. */
  count(tenantId: TenantId): Promise<number>

  /**
   * Erases all events of the tenant. Whoever follows one of its runs, or writes to one, is told that it is over: each run that there
   * were events of, and each of `openRuns`, keeps for 15 minutes a mark that holds no content and refuses every append as fenced.
   */
  erase(tenantId: TenantId, openRuns: readonly string[]): Promise<void>
}

export type AppendOutcome =
  | { outcome: 'appended' }
  /** The log is ahead of `firstSeq - 1` or behind it: the last cursor it holds. Nothing was appended in the second case. */
  | { outcome: 'duplicate'; last: Cursor }
  | { outcome: 'gap'; last: Cursor }
  /** A later epoch owns the run. Nothing was appended. */
  | { outcome: 'fenced'; last: Cursor }

export type Backlog = {
  events: LoggedEvent[]
  /**
   * True when `events` begins right after the asked cursor, or with the opening of a later epoch, which restates what came before.
   * False when something in between expired or was trimmed, and when the log holds neither the cursor nor anything after it: an
   * empty log may have had no events yet, or have expired.
   */
  complete: boolean
}

/** What one instance tells all others. A signal may be lost: whatever depends on it also polls. */
export type Signal =
  | { type: 'CancelRun'; tenantId: TenantId; runId: string }
  /** Somebody of the tenant may do less, or more, than before: its `access_version` has grown. */
  | { type: 'AccessChanged'; tenantId: TenantId }
  /** The tenant's admins were told something. */
  | { type: 'NotificationCreated'; tenantId: TenantId; notificationId: string }

export type Signals = {
  /** Delivers to every subscriber of every instance, this one included. */
  publish(signal: Signal): Promise<void>
  subscribe(listener: (signal: Signal) => void): Promise<Unsubscribe>
}

/**
 * A run that a worker has claimed. `ended` resolves when it is done with it, and never rejects. `weight` is how many of its tenant's
 * runs are taken in a row when tenants take turns. Unless `othersWait`, none waited beside it that could be taken: whoever queues one
 * later wakes the tenant.
 */
export type Taken = { ended: Promise<void>; weight: number; othersWait: boolean }

/** Claims a run of the tenant and begins to execute it; null when none waits. */
export type Take = (tenantId: TenantId) => Promise<Taken | null>

/** Wake-ups for workers. They carry no work: the runs themselves are rows in Postgres, so losing one costs only time. */
export type RunQueue = {
  /** Says that a run of the tenant can be claimed. However often it is said, one wake-up waits at a time. */
  wake(tenantId: TenantId): Promise<void>
  /**
   * Calls `take` for each wake-up, round robin over tenants, while fewer than `concurrency` runs are under way here. A `take`
   * that finds a run, and others that wait, is followed by others for the same tenant, by whichever consumer has room, until its
   * weight is used up; the tenant is then woken again, behind the others, since more may wait.
   * The returned function stops taking and resolves when the runs under way have ended.
   */
  consume(take: Take, concurrency: number, host?: Host): Unsubscribe
  /**
   * A place at a consumer of this process that has a host and room, and that no wake-up waits for here; null when there is none.
   */
  reserve(): Place | null
}

/** A call that wants one of a model's slots. `weight` is its tenant's, as its plan says. */
export type SlotRequest = { model: string; tenantId: TenantId; weight: number }

/** Bounds the calls that upstream models get at a time from all processes together, and shares them among the tenants. */
export type ModelSlots = {
  /** The models whose calls may have to wait; null for all. */
  readonly bounded: readonly string[] | null
  /**
   * Waits for a slot for as long as it takes, and answers how to give it back, which is done once. Slots are shared by weighted
   * max-min: a free one goes to the tenant that holds the fewest for its weight. A model that nobody bounded has any number. Throws
   * the signal's reason when that is aborted, and nothing else: while the count of all processes cannot be reached, this one
   * goes by its own.
   */
  acquire(request: SlotRequest, signal: AbortSignal): Promise<() => void>
}

export type ToolDefinition = {
  name: string
  description: string
  /** JSON Schema of the arguments. */
  parameters: Record<string, unknown>
}

/** What a tool is told of the call beside its arguments. */
export type ToolContext = {
  /** Aborted when the call takes too long, or its run has to stop. */
  signal: AbortSignal
  /** The same for the same call however often it is tried, and another for every other: a UUID. */
  idempotencyKey: string
}

export type Tool = ToolDefinition & {
  /** Whether a call that may have been made can be made again: it changes nothing, or nothing more. */
  isRepeatable: boolean
  /** Whether a person has to agree before it is called with these arguments, which are the parsed JSON the model sent. */
  asksFirst(args: unknown): boolean
  /** `args` is the parsed JSON the model sent. What it returns, or the message of what it throws, goes back to the model. */
  call(args: unknown, context: ToolContext): Promise<string>
}

/** Thrown by a tool that cannot tell whether its call took effect: a connection broke after the request was sent, say. */
export class ToolOutcomeUnknown extends Error {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super(message, options)
    this.name = 'ToolOutcomeUnknown'
  }
}

/** The values of the tenant's secrets of these names, by name. Those that it does not have are left out. */
export type RevealSecrets = (names: readonly string[]) => Promise<ReadonlyMap<string, string>>

/** The tools a run may use. Loaded for each run; nothing is shared between tenants. */
export type Toolbox = {
  /** The tools that come with the platform, as far as the tenant could enable them. */
  available(tenantId: TenantId): Promise<readonly Tool[]>
  /** Every kind of tool that tenants define themselves. */
  kinds: { [Kind in keyof ToolDefinitions]: ToolMaker<Kind> }
}

/** Makes tools of one kind from what tenants define. Secrets are revealed for a request that needs them, and go nowhere else. */
export type ToolMaker<Kind extends keyof ToolDefinitions> = {
  /**
   * The definition, for a tool of this name, as it is to be stored. Throws a ValidationProblem that names a field of the input. May ask the server that the
   * definition leads to, so never in a transaction.
   */
  define(name: string, input: ToolInputs[Kind], reveal: RevealSecrets): Promise<ToolDefinitions[Kind]>
  /** The tools that a stored definition gives the model. Asks nobody. */
  open(tool: StoredTool<Kind>, reveal: RevealSecrets): readonly Tool[]
}

export type ToolCall = { id: string; name: string; arguments: string }

export type ModelMessage =
  | { role: 'system' | 'user'; content: string }
  | { role: 'assistant'; content: string; toolCalls?: ToolCall[] }
  | { role: 'tool'; toolCallId: string; content: string }

export type ModelRequest = {
  model: string
  messages: ModelMessage[]
  temperature: number
  maxOutputTokens: number
  tools: readonly ToolDefinition[]
}

/**
 * What a model call yields: any number of texts and tool calls, usage as often as the upstream reports it, of all that came before it, then
 * the reason it ended.
 */
export type ModelEvent =
  | { type: 'text'; text: string }
  /** More of tool calls that come whole once the model has finished them: until then, all that is known of what they cost. */
  | { type: 'toolText'; text: string }
  | { type: 'toolCall'; call: ToolCall }
  | { type: 'usage'; usage: TokenUsage }
  | { type: 'finish'; reason: 'STOP' | 'LENGTH' | 'TOOL_CALLS' | 'REFUSAL' }

/** With whom and with which key a tenant has its models called. `baseUrl`, which the tenant chose, is null for the platform's. */
export type ModelAccount = { apiKey: string; baseUrl: string | null }

export type ModelCallOptions = {
  /** Default: the platform's. */
  account?: ModelAccount | null
  /** What the model says until then, where that answers a promise, may come together. */
  beat?: () => Promise<void> | null
  /** Nothing is sent before it has resolved, and never when it rejects. What comes before that takes its time meanwhile. */
  ready?: Promise<void> | null
}

export type Model = {
  /**
   * One streaming call. Ends after `finish`; throws a ModelError when the upstream fails, and the signal's reason when aborted, after what
   * had come by then. Never retries: the caller meters each attempt.
   */
  stream(request: ModelRequest, signal: AbortSignal, options?: ModelCallOptions): AsyncIterable<ModelEvent>
  /** Tokens that fit the model, input and output together. */
  contextWindow(model: string): number
  /** Whether it thinks before it answers, in output tokens that are not streamed. */
  hidesReasoning(model: string): boolean
  /** The model's token count of `text`; exact for the encodings known here, otherwise an estimate. */
  countTokens(model: string, text: string): number
}

export type ModelErrorCode =
  /** 401, 403 or 404: wrong key, or a model that does not exist. */
  | 'MODEL_REFUSED'
  /** 400 or 422: the request itself is wrong. */
  | 'MODEL_BAD_REQUEST'
  /** 429. */
  | 'MODEL_RATE_LIMITED'
  /** 5xx, or nothing listens there. */
  | 'MODEL_UNAVAILABLE'
  /** No byte within the idle limit, or not done within the total limit. */
  | 'MODEL_TIMED_OUT'
  /** Not the protocol, or closed before the end. */
  | 'MODEL_BROKEN_STREAM'

/** A model call that failed. The message is safe to show to the tenant: it quotes nothing the upstream said. */
export class ModelError extends Error {
  readonly code: ModelErrorCode
  /** Whether the same call may succeed later. */
  readonly retryable: boolean
  /** How long the upstream asked to wait, in milliseconds; null when it did not say. */
  readonly retryAfterMs: number | null

  constructor(
    code: ModelErrorCode,
    message: string,
    options: { retryable: boolean; retryAfterMs?: number | null; cause?: unknown },
  ) {
    super(message, { cause: options.cause })
    this.name = 'ModelError'
    this.code = code
    this.retryable = options.retryable
    this.retryAfterMs = options.retryAfterMs ?? null
  }
}

/** A tenant's data key as it is stored: encrypted under the wrapping key of this id. */
export type WrappedKey = { wrappedKey: Uint8Array<ArrayBuffer>; wrappingKeyId: string }

/**
 * Encrypts what tenants entrust to the platform, each tenant's under data keys of its own. They are stored beside what they
 * encrypt, wrapped under a key that is not. What cannot be decrypted throws, and the error says nothing of the content.
 */
export type Vault = {
  /** The wrapping key that new data keys get. */
  readonly wrappingKeyId: string
  /** A new data key for the tenant, to be stored. */
  createKey(tenantId: TenantId): Promise<WrappedKey>
  /**
   * Opens a data key that was made for the tenant. May ask a key service, so never in a transaction. Remembered for 5 minutes
   * under `key.id`.
   */
  unlock(tenantId: TenantId, key: WrappedKey & { id: string }): Promise<SecretCipher>
  /** The same data key under `wrappingKeyId`, which it was opened with once more; null when it is under that already. */
  rewrap(tenantId: TenantId, key: WrappedKey): Promise<WrappedKey | null>
  /** Forgets the tenant's data keys, since they were destroyed. */
  forget(tenantId: TenantId): void
}

/** One of a tenant's data keys, open. */
export type SecretCipher = {
  /** The value, encrypted for the secret of this id alone. Different each time. */
  encrypt(secretId: string, value: string): Uint8Array<ArrayBuffer>
  /** What `encrypt` encrypted for the secret of this id. */
  decrypt(secretId: string, ciphertext: Uint8Array): string
  /** Equal for equal values and says no more of them to whoever has not the key: an HMAC-SHA-256 in hexadecimal. */
  fingerprint(value: string): string
}

export type EgressRequest = {
  url: string
  /** Default GET. */
  method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  headers?: Readonly<Record<string, string>>
  body?: string | null
  /** Hosts that may be asked, redirects included: names, or `*.` and a name for all names below it. Default: every host. */
  allowedHosts?: readonly string[]
  /** Redirects that are followed; with 0 a redirect is an answer like any other. Default 3. */
  maxRedirects?: number
  /** Bytes of the answer's body. Default 1,048,576. */
  maxBytes?: number
  /** For everything, redirects included, in milliseconds. Default 15,000. */
  timeout?: number
  signal?: AbortSignal
}

/** `url` is where the answer came from. Names of headers are in lower case. */
export type EgressResponse = { url: string; status: number; headers: Readonly<Record<string, string>>; body: Uint8Array }

/**
 * The same while it comes. To read on throws an EgressFailure once there is too much of it, or it takes too long. To be closed, read or not.
 */
export type EgressStream = Omit<EgressResponse, 'body'> & { body: AsyncIterable<Uint8Array>; close(): Promise<void> }

/**
 * The one way out for URLs that a tenant chooses. It connects to the public Internet alone, and to what the operator has listed: each
 * address is checked when it is connected to, those of redirects too. Credentials are never sent on to another origin.
 */
export type Egress = {
  /** Why the URL is refused, whatever its name leads to, in a sentence for the tenant; null when it can be asked. */
  refusalOf(url: string): string | null
  /** Answers whatever the server answers. Throws an EgressFailure, and the signal's reason when aborted. */
  request(request: EgressRequest): Promise<EgressResponse>
  /** The same as soon as the answer has begun. */
  stream(request: EgressRequest): Promise<EgressStream>
}

export type EgressFailureCode =
  /** The URL, a header or a redirect breaks a rule. Nothing was sent there. */
  | 'REFUSED'
  /** The name is unknown, its address is none that may be reached, or the connection failed. */
  | 'UNREACHABLE'
  | 'TIMED_OUT'
  | 'TOO_LARGE'
  | 'TOO_MANY_REDIRECTS'

/** A request that came to nothing. The message is safe to show to the tenant; the cause is for the operator. */
export class EgressFailure extends Error {
  readonly code: EgressFailureCode
  /** Whether the server may have got the request, though it did not begin to answer. */
  readonly mayHaveArrived: boolean

  constructor(code: EgressFailureCode, message: string, options: { cause?: unknown; mayHaveArrived?: boolean } = {}) {
    super(message, options)
    this.name = 'EgressFailure'
    this.code = code
    this.mayHaveArrived = options.mayHaveArrived ?? false
  }
}

/** `id` is what the receiver knows the message by, however often it comes: part of the Message-ID of an e-mail, `webhook-id` of what is posted. */
export type OutgoingEmail = { id: string; to: string; subject: string; text: string }
export type OutgoingPost = { id: string; body: string; contentType: 'application/json' | 'application/cloudevents+json' }
export type OutgoingWebhook = OutgoingPost & { url: string; secret: string }

/** Carries messages to the outside, each as often as it is told to. All throw a DeliveryFailure, and the signal's reason when aborted. */
export type Courier = {
  /** Resolves when the mail server has taken it. */
  email(email: OutgoingEmail, signal: AbortSignal): Promise<void>
  /** Posts `body`, signed with the secret by the scheme of Standard Webhooks. Resolves when the receiver has taken it. */
  webhook(webhook: OutgoingWebhook, signal: AbortSignal): Promise<void>
  /** The same to the feed that the operator chose for all tenants' usage; null when there is none. */
  usageFeed: ((event: OutgoingPost, signal: AbortSignal) => Promise<void>) | null
}

/** A message that was not taken. The text says why, and repeats nothing that a tenant or a receiver wrote. */
export class DeliveryFailure extends Error {
  /** Whether trying again is of no use. */
  readonly final: boolean

  constructor(message: string, options: { final: boolean; cause?: unknown }) {
    super(message, { cause: options.cause })
    this.name = 'DeliveryFailure'
    this.final = options.final
  }
}

/** Encrypts what the platform itself has to keep, such as the addresses of databases. */
export type PlatformCipher = {
  /** The key that `seal` uses. Keep it beside what it sealed. */
  keyId: string
  /** The text, to be opened for the same purpose alone. */
  seal(purpose: string, text: string): Promise<Uint8Array<ArrayBuffer>>
  /** The text that was sealed for `purpose`, also under an older key that is still configured. Throws when it was not, or was changed. */
  open(purpose: string, keyId: string, sealed: Uint8Array): Promise<string>
}
