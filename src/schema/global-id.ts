/** One byte per type, never reused: ids are handed out for ever. */
const tags = {
  Tenant: 1,
  ApiKey: 2,
  Agent: 3,
  AgentConfig: 4,
  Conversation: 5,
  Message: 6,
  Run: 7,
  TenantExport: 8,
  Secret: 9,
  Webhook: 10,
  Notification: 11,
  UsageRecord: 12,
  Approval: 16,
  Tool: 20,
} as const

export type NodeType = keyof typeof tags

/** Whether things of the type called `name` have global ids. */
export function isNodeType(name: string): name is NodeType {
  return Object.hasOwn(tags, name)
}

/** The nil UUID (RFC 9562): no row has it. */
const nil = '00000000-0000-0000-0000-000000000000'

/** The id that clients see: the type and the UUID, in base64url. It says nothing about tenants and grants no access. */
export function encodeId(type: NodeType, uuid: string): string {
  return Buffer.from(tags[type].toString(16).padStart(2, '0') + uuid.replaceAll('-', ''), 'hex').toString('base64url')
}

/**
 * The UUID in an id of `type`. Anything else decodes to the nil UUID, so that a malformed id, an id of another type
 * and an id that nothing has take one and the same path to "there is no such thing".
 */
export function decodeId(type: NodeType, id: string): string {
  const node = parseId(id)
  return node?.type === type ? node.uuid : nil
}

/** Type and UUID of an id; null when it is not one of ours. */
export function parseId(id: string): { type: NodeType; uuid: string } | null {
  const bytes = Buffer.from(id, 'base64url')
  // Node's decoder skips what it does not know; only the one spelling of an id is accepted.
  if (bytes.length !== 17 || bytes.toString('base64url') !== id) return null
  const type = (Object.keys(tags) as NodeType[]).find((name) => tags[name] === bytes[0])
  if (!type) return null
  const hex = bytes.toString('hex', 1)
  return { type, uuid: hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5') }
}
