import { Stage, type StageOptions } from '../support/stage.ts'
import { Provider } from './provider.ts'

export type FaultStage = Stage<Provider>

/** A stage whose provider never gives the same answer twice. */
export async function openStage(options: StageOptions = {}): Promise<FaultStage> {
  return Stage.open(await Provider.start(), options)
}
