import { type Authenticator, isExpired, type Principal } from '../domain/authenticate.ts'
import type { TenantId } from '../domain/ids.ts'
import type { Signals, Unsubscribe } from '../domain/ports.ts'
import { SideBySide } from '../domain/side-by-side.ts'
import { startTicker } from '../domain/ticker.ts'

/** Why a connection that lives on ends. */
export type EndReason = 'revoked' | 'shutdown'

/** The version of who may do what in each of these tenants. One that does not exist is left out. */
export type AccessVersions = (tenantIds: TenantId[]) => Promise<ReadonlyMap<TenantId, number>>

type Session = {
  credential: string | null
  principal: Principal
  end: (reason: EndReason) => void
  /** At which version of its tenant the credentials were last checked; null before the first check. */
  checkedAt: number | null | undefined
}

type Options = {
  authenticate: Authenticator
  signals: Signals
  accessVersions: AccessVersions
  /** Between two looks at the versions, in milliseconds. */
  pollMs: number
  /** Given the first failure of each outage. */
  onError: (error: unknown) => void
}

/**
 * The connections that outlive a request: sockets and event streams. When the access of a tenant changes, wherever that
 * happened, the credentials of its connections are checked again, and those end whose credentials are refused. A signal says
 * when to look, and since signals may be lost, there is also a look every now and then: one query for all tenants that have
 * connections here, and none without connections. While nobody can tell whether a credential is good, its connections stay.
 */
export class Sessions {
  readonly #options: Options
  readonly #open = new Set<Session>()
  /** Of credentials. Those of a tenant whose own database is silent take for ever. */
  readonly #checks = new SideBySide<string | null>()
  #stop: Unsubscribe[] = []
  #looking: Promise<void> | null = null
  #lookAgain = false
  #failing = false

  constructor(options: Options) {
    this.#options = options
  }

  /** Starts to listen and to look. Resolves once no signal is missed. */
  async start(): Promise<void> {
    const { signals, pollMs, onError } = this.#options
    const unsubscribe = await signals.subscribe((signal) => {
      if (signal.type === 'AccessChanged' && this.#tenants().includes(signal.tenantId)) void this.#look()
    })
    this.#stop = [unsubscribe, startTicker(pollMs, () => this.#look(), onError)]
  }

  /** Calls `end` once when the credentials stop being valid or the server shuts down. Returns what stops watching. */
  watch(credential: string | null, principal: Principal, end: (reason: EndReason) => void): () => void {
    // What changed since these credentials were checked was told before anybody listened here: the next look checks them again.
    const session: Session = { credential, principal, end, checkedAt: null }
    this.#open.add(session)
    return () => void this.#open.delete(session)
  }

  /** Ends every connection and stops listening. */
  async close(): Promise<void> {
    for (const session of this.#open) this.#end(session, 'shutdown')
    for (const stop of this.#stop.splice(0)) await stop()
  }

  /** Never throws. One look at a time; what is heard during one is looked at in another. */
  #look(): Promise<void> {
    this.#lookAgain = true
    this.#looking ??= this.#lookUntilStill().finally(() => {
      this.#looking = null
    })
    return this.#looking
  }

  async #lookUntilStill(): Promise<void> {
    while (this.#lookAgain) {
      this.#lookAgain = false
      try {
        await this.#checkChanged()
        this.#failing = false
      } catch (error) {
        if (!this.#failing) this.#options.onError(error)
        this.#failing = true
      }
    }
  }

  async #checkChanged(): Promise<void> {
    const tenants = this.#tenants()
    // Read before the credentials are: a change in between shows at the next look.
    const versions = tenants.length > 0 ? await this.#options.accessVersions(tenants) : new Map<TenantId, number>()
    const due = [...this.#open].filter((session) => isDue(session, versions))
    await this.#checks.each(
      Map.groupBy(due, ({ credential }) => credential),
      async (credential, sessions) => {
        const isValid = (await this.#options.authenticate(credential)) !== null
        for (const session of sessions) {
          if (isValid) session.checkedAt = versionOf(session, versions)
          else this.#end(session, 'revoked')
        }
      },
    )
  }

  #tenants(): TenantId[] {
    return [...new Set(Array.from(this.#open).flatMap((session) => tenantOf(session) ?? []))]
  }

  #end(session: Session, reason: EndReason): void {
    if (this.#open.delete(session)) session.end(reason)
  }
}

/** An operator's, which are few, at each look; a tenant's when its key has expired or something has changed. */
function isDue(session: Session, versions: ReadonlyMap<TenantId, number>): boolean {
  const { principal, checkedAt } = session
  if (principal.kind === 'operator') return true
  return checkedAt !== versionOf(session, versions) || isExpired(principal)
}

function versionOf(session: Session, versions: ReadonlyMap<TenantId, number>): number | undefined {
  const tenantId = tenantOf(session)
  return tenantId === null ? undefined : versions.get(tenantId)
}

function tenantOf({ principal }: Session): TenantId | null {
  return principal.kind === 'tenant' ? principal.scope.tenant.id : null
}
