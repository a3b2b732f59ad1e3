/** The credential in a header or connection parameter `Bearer <credential>`; null when there is none. */
export function bearer(value: unknown): string | null {
  return (typeof value === 'string' && /^Bearer +(\S+)$/i.exec(value.trim())?.[1]) || null
}
