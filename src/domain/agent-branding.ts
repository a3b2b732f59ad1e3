import type { AgentConfig } from '../data/generated/client.ts'
import { ValidationProblem } from './errors.ts'
import { isUuid } from './ids.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'

/** How frontends present an agent to whoever talks to it. What is missing is up to them. */
export type Branding = {
  /** What it calls itself. At most 100 bytes. */
  name?: string
  /** As in #0a7f5c. */
  primaryColor?: string
  backgroundColor?: string
  /** An https URL, at most 2,000 bytes. Nothing here ever fetches it. */
  logoUrl?: string
  /** What it says before anybody has said anything. At most 2,000 bytes. */
  greeting?: string
}

/** What somebody asks for; null is the same as absent. */
export type BrandingInput = { [Field in keyof Branding]?: Branding[Field] | null }

const fields = ['name', 'primaryColor', 'backgroundColor', 'logoUrl', 'greeting'] as const satisfies (keyof Branding)[]

/** What is set of it, each within its bounds; else throws a ValidationProblem whose path ends with the field. */
export function checkBranding(input: BrandingInput): Branding {
  const set: Branding = {}
  for (const field of fields) {
    const value = input[field]
    if (value != null) set[field] = checks[field](['branding', field], value)
  }
  return set
}

/** How an agent of this configuration is presented. What was stored before there were these fields is passed over. */
export function brandingOf({ branding }: Pick<AgentConfig, 'branding'>): Branding {
  const stored = branding as Record<string, unknown>
  return Object.fromEntries(fields.flatMap((field) => (typeof stored[field] === 'string' ? [[field, stored[field]]] : [])))
}

/** The brandings of these agents' active versions; agents that do not exist are left out. End users see who answers them. */
export async function brandingByAgent(scope: Scope, agentIds: readonly string[]): Promise<Map<string, Branding>> {
  requireRole(scope, 'END_USER')
  const agents = await scope.db.agent.findMany({
    where: { id: { in: agentIds.filter(isUuid) } },
    select: { id: true, activeVersion: true },
  })
  if (agents.length === 0) return new Map()
  const configs = await scope.db.agentConfig.findMany({
    where: { OR: agents.map(({ id, activeVersion }) => ({ agentId: id, version: activeVersion })) },
    select: { agentId: true, branding: true },
  })
  return new Map(configs.map((config) => [config.agentId, brandingOf(config)]))
}

type Check = (path: readonly string[], value: string) => string

const checks: Record<keyof Branding, Check> = {
  name: (path, value) => cleanText(path, value, { max: 100 }),
  primaryColor: checkColor,
  backgroundColor: checkColor,
  logoUrl: checkUrl,
  greeting: (path, value) => cleanText(path, value, { max: 2_000, multiline: true }),
}

function checkColor(path: readonly string[], value: string): string {
  if (/^#[0-9a-f]{6}$/i.test(value)) return value.toLowerCase()
  throw new ValidationProblem(path, 'A colour is # and six hexadecimal digits, as in #0a7f5c.')
}

function checkUrl(path: readonly string[], value: string): string {
  const url = URL.parse(cleanText(path, value, { max: 2_000 }))
  // A password would be shown to every visitor.
  if (url?.protocol === 'https:' && url.username === '' && url.password === '') return url.href
  throw new ValidationProblem(path, 'The URL must begin with https:// and hold no credentials.')
}
