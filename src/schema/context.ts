import type { OperatorScope, Principal } from '../domain/authenticate.ts'
import { Forbidden, Unauthenticated } from '../domain/errors.ts'
import type { Scope } from '../domain/scope.ts'

/** What every resolver gets. A subscription makes one per event, so that nothing loaded for one event is served to the next. */
export type Context = {
  /** Who asks; null when no valid credentials came with the request. */
  principal: Principal | null
  /** The id of the last event that a reconnecting SSE client saw (`Last-Event-ID`). It takes the place of `after`. */
  lastEventId: string | null
  /** When the operation is answered in any case, by `performance.now()`. */
  answerBy: number
  /** Aborted when nobody listens to the subscription any more. */
  signal: AbortSignal
}

/** Why `context` may not do what it asked for: nobody is there, or somebody who may not. */
export function refusal(context: Context): Error {
  return context.principal ? new Forbidden() : new Unauthenticated()
}

/** The tenant's scope. Throws for operators, who have none. */
export function scopeOf(context: Context): Scope {
  if (context.principal?.kind !== 'tenant') throw refusal(context)
  return context.principal.scope
}

/** The operator's scope. Throws for everybody else. */
export function operatorOf(context: Context): OperatorScope {
  if (context.principal?.kind !== 'operator') throw refusal(context)
  return context.principal.operator
}
