import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type ExecutionArgs, type ExecutionResult, type GraphQLSchema, getOperationAST, Kind, OperationTypeNode } from 'graphql'
import {
  CloseCode,
  handleProtocols,
  makeServer,
  type Server,
  type Context as SocketContext,
  type SubscribePayload,
} from 'graphql-ws'
import type { Logger } from 'pino'
import { type WebSocket, WebSocketServer } from 'ws'
import { type Authenticator, isExpired, type Principal, scopeIn, type TenantPrincipal } from '../domain/authenticate.ts'
import { bearer } from './credential.ts'
import { badRequest, type ErrorMask, publicError, publicResult } from './errors.ts'
import type { Outlet } from './execution.ts'
import type { GraphQLHandler } from './graphql.ts'
import type { Limits } from './limits.ts'
import type { EndReason, Sessions } from './sessions.ts'
import { SocketWriter } from './socket-writer.ts'

type Options = {
  graphql: GraphQLHandler
  authenticate: Authenticator
  sessions: Sessions
  mask: ErrorMask
  limits: Limits
  logger: Logger
}

type ConnectionParams = { authorization?: unknown }

/**
 * What is known of a socket. `closed` is aborted when it has closed; `forget` stops watching its credentials; `running` counts the
 * messages that are being dealt with, and an operation's message is until the operation has ended.
 */
type Extra = {
  socket: WebSocket
  writer: SocketWriter
  closed: AbortSignal
  credential: string | null
  /** Who holds the credential, as it was found at `at`, in milliseconds of the process. */
  known: { principal: Principal; at: number } | null
  forget: () => void
  running: number
}

type Operation = ReturnType<typeof getOperationAST>

/** What an operation is executed with. */
type Engine = Pick<ReturnType<GraphQLHandler['getEnveloped']>, 'execute' | 'subscribe'> & Outlet

/**
 * How long a subscription may begin after its socket's credentials were checked, in milliseconds, without a check of its own. It is then as
 * one that began with that check: the socket is watched, and closed when its credentials are refused.
 */
const subscribedWithin = 1_000

/** Close codes of RFC 6455 and of the IANA registry that it founds. */
const goingAway = 1001
const internalError = 1011
const tryAgainLater = 1013

const closeCodes: Record<EndReason, number> = { revoked: CloseCode.Unauthorized, shutdown: goingAway }

/** GraphQL over WebSocket, by the protocol `graphql-transport-ws`. */
export class Sockets {
  readonly #options: Options
  readonly #protocol: Server<Extra>
  readonly #server: WebSocketServer

  constructor(options: Options) {
    this.#options = options
    this.#server = new WebSocketServer({ noServer: true, maxPayload: options.limits.bodyBytes, handleProtocols })
    this.#protocol = makeServer<ConnectionParams, Extra>({
      connectionInitWaitTimeout: options.limits.connectionInitMs,
      onConnect: (context) => this.#admit(context),
      onSubscribe: (context, id, payload) => this.#prepare(context, id, payload),
      execute: (args) => (args.rootValue as Engine).execute(args),
      subscribe: (args) => (args.rootValue as Engine).subscribe(args),
      onNext: (_context, _id, _payload, _args, result) => publicResult(result as ExecutionResult),
      onError: (_context, _id, _payload, errors) => errors.map(publicError),
      onClose: ({ extra }) => extra.forget(),
    })
  }

  /** Completes the handshake of a request to upgrade. */
  upgrade(request: IncomingMessage, stream: Duplex, head: Buffer): void {
    this.#server.handleUpgrade(request, stream, head, (socket) => this.#open(socket, stream))
  }

  /** Closes every socket with 1001. Resolves when all are gone, at the latest after `graceMs`. */
  async close(graceMs: number): Promise<void> {
    const gone = [...this.#server.clients].map((socket) => new Promise((resolve) => socket.once('close', resolve)))
    for (const socket of this.#server.clients) socket.close(goingAway)
    const late = setTimeout(() => {
      for (const socket of this.#server.clients) socket.terminate()
    }, graceMs)
    await Promise.all(gone)
    clearTimeout(late)
  }

  /** Checks the credentials of a new socket, and watches them from then on. */
  async #admit({ extra, connectionParams }: SocketContext<ConnectionParams, Extra>): Promise<boolean> {
    extra.credential = bearer(connectionParams?.authorization)
    const principal = await this.#authenticate(extra)
    if (!principal) return false
    extra.forget = this.#options.sessions.watch(extra.credential, principal, (reason) => extra.socket.close(closeCodes[reason]))
    // It may have been closed meanwhile, and then nothing else would stop the watch.
    if (extra.socket.readyState !== extra.socket.OPEN) extra.forget()
    return true
  }

  /** Parses, validates and authorizes an operation: what to execute, or the errors that say why not. */
  async #prepare({ extra, subscriptions }: SocketContext<ConnectionParams, Extra>, id: string, payload: SubscribePayload) {
    const { mask, graphql, limits } = this.#options
    const { operationsPerSocket } = limits
    try {
      // The protocol forgets an operation with its id, also while it is only getting ready, so that ids alone would not bound them.
      if (Object.keys(subscriptions).length > operationsPerSocket || extra.running > 2 * operationsPerSocket) {
        throw badRequest(`One socket carries at most ${operationsPerSocket} operations at a time.`)
      }
      const identify = () => this.#identify(extra, schema, getOperationAST(document, payload.operationName))
      const { schema, parse, validate, contextFactory, execute, subscribe } = graphql.getEnveloped({
        identify,
        closed: extra.closed,
      })
      const document = parse(payload.query)
      const errors = validate(schema, document)
      if (errors.length > 0) return errors
      const head = Buffer.from(`{"id":${JSON.stringify(id)},"type":"next","payload":`)
      const send: Engine['send'] = (json) => extra.writer.sendShared(head, json)
      return {
        schema,
        document,
        operationName: payload.operationName,
        variableValues: payload.variables,
        contextValue: await contextFactory(),
        rootValue: { execute, subscribe, send } satisfies Engine,
      } as ExecutionArgs
    } catch (error) {
      return [mask(error)]
    }
  }

  /** For whom an operation is executed. */
  async #identify(extra: Extra, schema: GraphQLSchema, operation: Operation): Promise<Principal | null> {
    const { known } = extra
    const isRecent = known !== null && performance.now() - known.at < subscribedWithin
    if (operation?.operation === OperationTypeNode.SUBSCRIPTION && isRecent) return known.principal
    if (known?.principal.kind === 'tenant' && !isExpired(known.principal) && checksAccess(schema, operation)) {
      return this.#renewing(extra, known.principal)
    }
    return this.#authenticate(extra)
  }

  /** With a scope that is asked for anew as the socket asks, which is closed when there is none. */
  #renewing(extra: Extra, principal: TenantPrincipal): Principal {
    const renew = async () => {
      const now = await this.#authenticate(extra)
      return now?.kind === 'tenant' ? scopeIn(this.#renewing(extra, now)) : null
    }
    return { ...principal, scope: { ...principal.scope, renew } }
  }

  /** Who is at the other end; null closes the socket, as does not being able to tell. */
  async #authenticate(extra: Extra): Promise<Principal | null> {
    const { socket, credential } = extra
    const at = performance.now()
    try {
      const principal = await this.#options.authenticate(credential)
      extra.known = principal && { principal, at }
      if (!principal) socket.close(CloseCode.Unauthorized, 'Unauthorized')
      return principal
    } catch (error) {
      const { extensions } = this.#options.mask(error)
      socket.close(extensions['code'] === 'SERVICE_UNAVAILABLE' ? tryAgainLater : internalError)
      return null
    }
  }

  #open(socket: WebSocket, stream: Duplex): void {
    const signs = watchLife(socket, this.#options.limits.keepAliveMs)
    const closing = new AbortController()
    const writer = new SocketWriter(socket, stream, signs.seen)
    const extra: Extra = {
      socket,
      writer,
      closed: closing.signal,
      credential: null,
      known: null,
      forget: () => undefined,
      running: 0,
    }
    const closed = this.#protocol.opened(
      {
        protocol: socket.protocol,
        send: (data) => writer.send(data),
        // The protocol quotes ids of any length; a close frame has room for 123 bytes (RFC 6455, 5.5).
        close: (code, reason = '') => socket.close(code, Buffer.byteLength(reason) > 123 ? '' : reason),
        onMessage: (receive) => {
          socket.on('message', async (data) => {
            signs.seen()
            extra.running += 1
            try {
              await receive(String(data))
            } catch (error) {
              this.#options.logger.error({ err: error }, 'A socket message failed.')
              socket.close(internalError)
            } finally {
              extra.running -= 1
            }
          })
        },
      },
      extra,
    )
    // ws closes the socket itself after an error, such as a frame that is too long or not UTF-8.
    socket.on('error', (error) => this.#options.logger.debug({ err: error }, 'A socket broke.'))
    socket.once('close', (code, reason) => {
      signs.stop()
      // The protocol keeps one operation for each id, and loses the earlier ones of an id that was used again.
      closing.abort()
      void closed(code, String(reason))
    })
  }
}

/** Whether all that an operation does makes sure itself that whoever asks for it may: see `mutation` in the schema. */
function checksAccess(schema: GraphQLSchema, operation: Operation): boolean {
  if (operation?.operation !== OperationTypeNode.MUTATION) return false
  const fields = schema.getMutationType()?.getFields()
  return operation.selectionSet.selections.every(
    (selection) => selection.kind === Kind.FIELD && fields?.[selection.name.value]?.extensions['checksAccess'] === true,
  )
}

/** Pings, and terminates a socket that shows no sign of life from one ping to the next: a pong, a message, bytes taken. */
function watchLife(socket: WebSocket, everyMs: number): { seen: () => void; stop: () => void } {
  let alive = true
  const seen = () => {
    alive = true
  }
  const timer = setInterval(() => {
    if (!alive) return socket.terminate()
    alive = false
    socket.ping()
  }, everyMs)
  socket.on('pong', seen)
  return { seen, stop: () => clearInterval(timer) }
}
