import { isAbsolute, relative } from 'node:path'
import type { App } from './app.ts'
import type { Config } from './config.ts'
import { demoFilePath } from './demo-file.ts'

/** What a person reads when the platform is up: where it is, with which keys, and two commands to try. One screen. */
export function startText(config: Config, { url, demo, hasDemo, databaseDirectory }: App): string {
  const demoFile = demoFilePath(config.dataDir)
  const lines = ['', '  Bulkhead is running.', '', ...roleLines(config, url)]
  if (config.role !== 'api') lines.push(`  Model   ${modelLine(config)}`)
  lines.push(`  Data    ${dataLine(config, databaseDirectory)}`)
  if (hasDemo && !demo) lines.push(`  Keys    in ${shortPath(demoFile)}`)
  lines.push('')
  if (demo) {
    lines.push(`  Keys, shown this once and kept in ${shortPath(demoFile)}:`)
    for (const tenant of demo.tenants) {
      lines.push(`    ${tenant.name} (${tenant.plan.toLowerCase()}) admin   ${tenant.adminKey}`)
      lines.push(`    ${' '.repeat(tenant.name.length + tenant.plan.length + 3)} member  ${tenant.memberKey}`)
    }
    lines.push(`    platform operator  ${demo.operatorKey}`, '')
  }
  if (hasDemo) lines.push(...tryLines(url, demoFile))
  lines.push('  Ctrl-C stops everything.', '', '')
  return lines.join('\n')
}

function roleLines({ role, production }: Config, url: string): string[] {
  if (role === 'worker') return ['  Role    worker: executes runs, serves no API', `  Health  ${url}/health/ready`]
  const hint = production ? '' : '  (GraphiQL; put {"Authorization": "Bearer <key>"} under Headers)'
  const open = `  Open    ${url}/graphql${hint}`
  return role === 'api' ? ['  Role    api: serves, and leaves runs to workers', open] : [open]
}

function modelLine(config: Config): string {
  if (config.upstream) return `${new URL(config.upstream.baseUrl).host}, new agents use ${config.defaultModel}`
  if (config.production) return 'none: set OPENAI_API_KEY'
  return 'scripted demo answers, no real model. Set OPENAI_API_KEY for a real one.'
}

function dataLine({ redis }: Config, databaseDirectory: string | null): string {
  const where =
    databaseDirectory === null ? 'the Postgres of DATABASE_URL' : `embedded Postgres, kept in ${shortPath(databaseDirectory)}`
  return `${where}; streams ${redis === null ? 'in this process' : 'in Redis'}`
}

/** As seen from here when it is below, whole when it is not. */
function shortPath(path: string): string {
  const short = relative(process.cwd(), path)
  return short.startsWith('..') || isAbsolute(short) ? path : short
}

/** The key is read from its file, so that it gets into no shell history. */
function tryLines(url: string, demoFile: string): string[] {
  return [
    '  A query:',
    `    curl -s ${url}/graphql -H 'content-type: application/json' \\`,
    `      -H "authorization: Bearer $(node -p "require('${demoFile}').tenants[0].adminKey")" \\`,
    `      -d '{"query":"{ viewer { actorName role tenant { name plan } } }"}'`,
    '  A streamed answer, as the other tenant:',
    '    npm run -s ask -- --as globex "Who are you, and what time is it?"',
    '',
  ]
}
