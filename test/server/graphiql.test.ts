import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let platform: TestPlatform
let response: Response
let page: string

beforeAll(async () => {
  platform = await startTestPlatform()
  response = await fetch(`${platform.url}/graphql`, { headers: { accept: 'text/html,application/xhtml+xml,*/*;q=0.8' } })
  page = await response.text()
})

afterAll(() => platform.stop())

describe('GraphiQL', () => {
  it('is what a browser gets', () => {
    expect(response.headers.get('content-type')).toContain('text/html')
    expect(page).toContain('<title>Bulkhead</title>')
  })

  it('has all it needs in the page, and may fetch nothing from elsewhere', () => {
    const outside = page.match(/<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?\/\//g)
    expect(outside).toBeNull()
    expect(page).not.toMatch(/@import|url\(["']?https?:|\bimport\(["']https?:/)
    const policy = response.headers.get('content-security-policy') ?? ''
    expect(policy).toContain("default-src 'none'")
    expect(policy).toContain("connect-src 'self'")
    expect(policy).not.toMatch(/https?:|\*/)
  })

  it('subscribes over a socket, with the credentials of its headers tab', () => {
    const [options] = page.match(/\{"title":"Bulkhead".*?\},\s*\);/s) ?? ['']
    expect(options).toContain('"subscriptionsProtocol":"WS"')
    const [, source] = options.match(/"connectionParams":(\(\) => \{.*\n\})\}/s) ?? []
    const parametersFor = (stored: string | null) =>
      new Function('localStorage', `return (${source})()`)({
        getItem: (key: string) => (key === 'graphiql:headers' ? stored : null),
      })
    expect(parametersFor('{"Authorization":"Bearer x"}')).toEqual({ authorization: 'Bearer x' })
    expect(parametersFor('{ half')).toEqual({})
    expect(parametersFor(null)).toEqual({})
  })

  it('can read the schema before anybody has signed in', async () => {
    const introspection = await fetch(`${platform.url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query: '{ __schema { queryType { name } } }' }),
    })
    expect(await introspection.json()).toEqual({ data: { __schema: { queryType: { name: 'Query' } } } })
  })
})

describe('in production', { tags: ['edge-introspection'] }, () => {
  let production: TestPlatform
  beforeAll(async () => {
    production = await startTestPlatform({ development: false })
  })
  afterAll(() => production.stop())

  const ask = async (query: string) => {
    const answer = await fetch(`${production.url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${production.acme.keys.admin}` },
      body: JSON.stringify({ query }),
    })
    return answer.json() as Promise<{ errors?: { message: string }[] }>
  }

  it('there is no GraphiQL', async () => {
    const answer = await fetch(`${production.url}/graphql`, { headers: { accept: 'text/html' } })
    expect(answer.status).not.toBe(200)
    expect(await answer.text()).not.toContain('<title>')
  })

  it.each(['{ __schema { queryType { name } } }', '{ __type(name: "Query") { name } }'])(
    'the schema is not told: %s',
    async (query) => {
      expect((await ask(query)).errors?.[0]?.message).toContain('introspection')
    },
  )

  it('nothing is suggested', async () => {
    const [inField, inEnum] = await Promise.all([
      ask('{ viewer { rol } }'),
      ask('mutation { createApiKey(input: { name: "x", role: ADMINN }) { __typename } }'),
    ])
    expect(inField.errors?.[0]?.message).toBe('Cannot query field "rol" on type "Viewer".')
    expect(JSON.stringify(inEnum)).not.toContain('Did you mean')
  })
})
