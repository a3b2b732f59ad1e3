import type { IncomingMessage, ServerResponse } from 'node:http'
import { createGzip } from 'node:zlib'
import type { Principal } from '../domain/authenticate.ts'
import { Forbidden, NotFound } from '../domain/errors.ts'
import type { Scope } from '../domain/scope.ts'
import { findTenantExport, sendArchive } from '../domain/tenant-export.ts'
import { decodeId } from '../schema/global-id.ts'
import { Answered, type Downloads } from './download.ts'

/** Where exports are fetched: `/exports/<id>`. */
export const exportsPath = '/exports/'

/**
 * Answers `GET /exports/<id>` with the archive, made while it is sent, for admins of its tenant, as `Downloads` does: 404 also for what
 * is another tenant's, and for what is no id, and 410 when it has expired. An archive without its last line is not whole.
 */
export function createExports(downloads: Downloads) {
  return (request: IncomingMessage, response: ServerResponse, id: string): Promise<void> =>
    downloads.answer(request, response, async (principal) => {
      const scope = adminOf(principal)
      const uuid = decodeId('TenantExport', id)
      const found = await findTenantExport(scope, uuid)
      if (!found) throw new NotFound('export')
      if (found.expiresAt.getTime() <= scope.ports.now()) throw new Answered(410, 'The export has expired. Ask for another one.')
      return {
        headers: { 'Content-Type': 'application/gzip', 'Content-Disposition': `attachment; filename="${id}.ndjson.gz"` },
        through: () => createGzip(),
        send: (sink) => sendArchive(scope, uuid, sink),
      }
    })
}

function adminOf(principal: Principal): Scope {
  if (principal.kind !== 'tenant') throw new Forbidden()
  return principal.scope
}
