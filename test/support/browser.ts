import { existsSync } from 'node:fs'
import { chromium, type Page } from 'playwright-core'

/** Where Debian installs Chromium. */
const executablePath = '/usr/bin/chromium'

/** Whether tests that need a browser run: Chromium is installed. In CI they always run, and fail without one. */
export const browserAvailable = process.env['CI'] === 'true' || existsSync(executablePath)

/** The name of a suite that needs a browser; says why when it is skipped. */
export function browserSuite(name: string): string {
  return browserAvailable ? name : `${name} (skipped: no ${executablePath})`
}

/** A page in a browser of the test's own that remembers nothing and cannot reach beyond this machine. */
export type OfflineBrowser = {
  page: Page
  /** What the page asked of other machines, by URL. Nothing of it was answered. */
  outside: string[]
  /** What the page opened sockets to, by URL. */
  sockets: string[]
  /** Errors that the page did not catch, and errors and warnings on its console, breaches of its security policy among them. */
  complaints: string[]
  close(): Promise<void>
}

/** Starts a Chromium without a window, with an empty profile that goes when it is closed. */
export async function startOfflineBrowser(): Promise<OfflineBrowser> {
  // Requests of pages are recorded and aborted below; for all else there are no names to look up.
  const browser = await chromium.launch({ executablePath, args: ['--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'] })
  const context = await browser.newContext({ permissions: ['clipboard-write'] })
  const outside: string[] = []
  const sockets: string[] = []
  const complaints: string[] = []
  await context.route(
    ({ hostname }) => hostname !== '127.0.0.1',
    (route, request) => {
      outside.push(request.url())
      return route.abort()
    },
  )
  const page = await context.newPage()
  page.on('websocket', (socket) => sockets.push(socket.url()))
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text())
  })
  return { page, outside, sockets, complaints, close: () => browser.close() }
}
