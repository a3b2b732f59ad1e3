import type { Authenticator, Principal } from '../domain/authenticate.ts'
import type { Signals } from '../domain/ports.ts'

/** Why a connection that lives on ends. */
export type EndReason = 'revoked' | 'shutdown'

type Session = { credential: string | null; principal: Principal; end: (reason: EndReason) => void; timer: NodeJS.Timeout }

type Options = {
  authenticate: Authenticator
  signals: Signals
  /** Between two checks of a connection's credentials, in milliseconds. */
  recheckMs: number
  onError: (error: unknown) => void
}

/**
 * The connections that outlive a request: sockets and event streams. One ends as soon as its key is revoked, wherever that
 * happened. A signal can be lost, and a key can expire, so each is also checked from time to time.
 */
export class Sessions {
  readonly #options: Options
  readonly #open = new Set<Session>()
  #unsubscribe: Promise<() => Promise<void>> | null = null

  constructor(options: Options) {
    this.#options = options
  }

  /** Starts listening for revocations. Resolves once none is missed. */
  async start(): Promise<void> {
    this.#unsubscribe ??= this.#options.signals.subscribe((signal) => {
      if (signal.type !== 'RevokeApiKey') return
      for (const session of this.#open) {
        const { principal } = session
        if (
          principal.kind === 'tenant' &&
          principal.scope.tenant.id === signal.tenantId &&
          principal.scope.actor.id === signal.apiKeyId
        ) {
          this.#end(session, 'revoked')
        }
      }
    })
    await this.#unsubscribe
  }

  /** Calls `end` once when the credentials stop being valid or the server shuts down. Returns what stops watching. */
  watch(credential: string | null, principal: Principal, end: (reason: EndReason) => void): () => void {
    const session: Session = {
      credential,
      principal,
      end,
      timer: setInterval(() => this.#recheck(session), this.#options.recheckMs),
    }
    this.#open.add(session)
    return () => this.#forget(session)
  }

  /** Ends every connection and stops listening. */
  async close(): Promise<void> {
    for (const session of this.#open) this.#end(session, 'shutdown')
    const unsubscribe = await this.#unsubscribe
    this.#unsubscribe = null
    await unsubscribe?.()
  }

  async #recheck(session: Session): Promise<void> {
    try {
      if ((await this.#options.authenticate(session.credential)) === null) this.#end(session, 'revoked')
    } catch (error) {
      // Nothing is known against the key: the connection stays.
      this.#options.onError(error)
    }
  }

  #end(session: Session, reason: EndReason): void {
    if (!this.#open.has(session)) return
    this.#forget(session)
    session.end(reason)
  }

  #forget(session: Session): void {
    clearInterval(session.timer)
    this.#open.delete(session)
  }
}
