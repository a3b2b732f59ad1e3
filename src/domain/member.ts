import type { TenantTransaction } from '../data/tenant-scope.ts'
import { issueApiKey } from './api-key.ts'
import { newId } from './ids.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'

/** A person on the tenant's own staff. */
export type NewMember = {
  name: string
  /** Null for somebody who is known by nothing but a key, and is no member. */
  email: string | null
  role: 'ADMIN' | 'MEMBER'
}

/** Adds a member and answers a key of theirs, shown here and never again. For admins; `tx` is the transaction it belongs to. */
export async function enrolMember(scope: Scope, tx: TenantTransaction, member: NewMember): Promise<string> {
  requireRole(scope, 'ADMIN')
  const name = cleanText('name', member.name, { max: 200 })
  const { role } = member
  const memberId = member.email === null ? null : newId()
  if (member.email !== null && memberId !== null) {
    const email = cleanText('email', member.email, { max: 254 })
    await tx.member.create({
      data: { id: memberId, tenantId: scope.tenant.id, name, email, role, createdAt: new Date(scope.ports.now()) },
    })
  }
  const { secret } = await issueApiKey(scope, tx, { id: newId(), name, role, memberId })
  return secret
}
