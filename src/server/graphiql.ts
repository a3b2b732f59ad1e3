import type { GraphiQLOptions } from 'graphql-yoga'

export const graphiqlOptions: GraphiQLOptions = {
  title: 'Bulkhead',
  subscriptionsProtocol: 'WS',
  headers: '{\n  "Authorization": "Bearer <api key>"\n}',
  defaultQuery: 'query Viewer {\n  viewer {\n    actorName\n    role\n    tenant { name plan }\n  }\n}\n',
}

/** Takes the place of a function, which options cannot hold: they reach the page as JSON. */
const placeholder = '<connection parameters>'

/** Runs in the page: sockets take the credentials of the headers tab, which GraphiQL keeps in the local storage. */
const connectionParams = `() => {
  try {
    const headers = JSON.parse(localStorage.getItem('graphiql:headers') || '{}')
    return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
  } catch {
    return {}
  }
}`

/**
 * The GraphiQL page. Everything it needs is in it, so it works without a network. The package behind it is large, so it is
 * loaded by the first visit and not at start.
 */
export async function renderGraphiQL(options: GraphiQLOptions): Promise<string> {
  const { renderGraphiQL: render } = await import('@graphql-yoga/render-graphiql')
  const page = render({ ...options, connectionParams: placeholder } as GraphiQLOptions)
  return page.replace(JSON.stringify(placeholder), () => connectionParams)
}

/** The page may talk to this server and to nobody else. Its workers are blobs that it makes itself. */
export const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'unsafe-inline' blob:",
  'worker-src blob:',
  "style-src 'unsafe-inline'",
  'font-src data:',
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ')
