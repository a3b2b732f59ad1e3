import { admission } from './admission.ts'
import type { Bench } from './bench.ts'
import { claims } from './claims.ts'
import { cluster } from './cluster.ts'
import { distance } from './distance.ts'
import { fairness } from './fairness.ts'
import { reads } from './reads.ts'
import { reports } from './reports.ts'
import { roundTrips } from './round-trips.ts'
import { startUp } from './start-up.ts'
import { streams } from './streams.ts'
import { sweep } from './sweep.ts'
import { writes } from './writes.ts'

/** Every bench by the name it is run by, in the order in which all of them run. */
export const benches: Readonly<Record<string, Bench>> = {
  'round-trips': roundTrips,
  reads,
  distance,
  writes,
  streams,
  admission,
  fairness,
  'start-up': startUp,
  claims,
  cluster,
  sweep,
  reports,
}
