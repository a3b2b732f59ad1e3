/** What somebody asked for, and what became of it. */
export type Ask = { tenant: number; weight: number; granted: boolean; left: boolean }

/** Slots as simply as they can be said: one list of what was asked for, looked through from the start each time. */
export function modelOfSlots(cap: number) {
  const asked: Ask[] = []
  const lastTurn = new Map<number, number>()
  let turns = 0
  const held = (tenant?: number) =>
    asked.filter((ask) => ask.granted && !ask.left && (tenant === undefined || ask.tenant === tenant)).length
  const waiting = () => asked.filter(({ granted, left }) => !granted && !left)
  let unfair: string | null = null

  function grantAll() {
    for (const { tenant } of asked) {
      if (held(tenant) === 0 && !waiting().some((ask) => ask.tenant === tenant)) lastTurn.delete(tenant)
    }
    while (held() < cap && waiting().length > 0) {
      const [next] = waiting().toSorted(
        (one, other) =>
          held(one.tenant) / one.weight - held(other.tenant) / other.weight ||
          (lastTurn.get(one.tenant) ?? 0) - (lastTurn.get(other.tenant) ?? 0) ||
          asked.indexOf(one) - asked.indexOf(other),
      )
      if (!next) return
      const share = held(next.tenant) / next.weight
      if (waiting().some((ask) => held(ask.tenant) / ask.weight < share)) unfair = `tenant ${next.tenant} had more than another`
      next.granted = true
      lastTurn.set(next.tenant, ++turns)
    }
  }

  return {
    enter(tenant: number, weight: number): Ask {
      const ask = { tenant, weight, granted: false, left: false }
      asked.push(ask)
      grantAll()
      return ask
    },
    leave(ask: Ask): void {
      ask.left = true
      grantAll()
    },
    /** What a grant gave to somebody who had more for their weight than another who waited; null when none did. */
    unfair: () => unfair,
  }
}
