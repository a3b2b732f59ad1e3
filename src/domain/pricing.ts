import type { TokenUsage } from './run-event.ts'

/** What a model's tokens cost, in nano-units of a currency per token: 1 USD per million tokens is 1,000 nano-USD. */
export type TokenPrice = { inputNanos: bigint; cachedInputNanos: bigint; outputNanos: bigint }

/**
 * What `usage` costs at `price`, in nano-units, exactly: cached input at the cached price, the rest of the input at the input
 * price, all output at the output price, hidden reasoning included.
 */
export function costNanos(
  usage: Pick<TokenUsage, 'inputTokens' | 'cachedInputTokens' | 'outputTokens'>,
  price: TokenPrice,
): bigint {
  const cached = BigInt(usage.cachedInputTokens)
  return (
    (BigInt(usage.inputTokens) - cached) * price.inputNanos +
    cached * price.cachedInputNanos +
    BigInt(usage.outputTokens) * price.outputNanos
  )
}
