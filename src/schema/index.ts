import './scalars.ts'
import './problem.ts'
import './viewer.ts'
import './tenant.ts'
import './agent.ts'
import './agent-config.ts'
import './api-key.ts'
import './conversation.ts'
import './message.ts'
import './run.ts'
import './agent-reply.ts'
import './erasure.ts'
import { builder } from './builder.ts'

/** The executable schema. */
export const schema = builder.toSchema()
