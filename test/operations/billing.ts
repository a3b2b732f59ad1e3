import { graphql } from '../generated/gql.ts'

export const invoiceQuery = graphql(`
  query Invoice($month: String!, $tenantId: ID) {
    invoice(month: $month, tenantId: $tenantId) {
      month
      timeZone
      from
      to
      isFinal
      currency
      lines {
        model
        isCorrection
        calls
        inputTokens
        outputTokens
        inputNanos
        cost {
          micros
        }
        marginBasisPoints
        margin {
          micros
        }
        amount {
          micros
        }
      }
      credits {
        reason
        amount {
          formatted
        }
      }
      cost {
        micros
      }
      margin {
        micros
      }
      credit {
        micros
      }
      total {
        micros
        formatted
      }
    }
  }
`)

export const setPriceMutation = graphql(`
  mutation SetPrice($input: SetPriceInput!) {
    setPrice(input: $input) {
      __typename
      ... on SetPricePayload {
        price {
          model
          version
          inputNanos
          cachedInputNanos
          outputNanos
          createdBy
        }
      }
      ... on ValidationProblem {
        path
      }
    }
  }
`)

export const setTenantPriceMutation = graphql(`
  mutation SetTenantPrice($input: SetTenantPriceInput!) {
    setTenantPrice(input: $input) {
      __typename
      ... on SetTenantPricePayload {
        tenantPrice {
          model
          version
          inputNanos
          marginBasisPoints
        }
      }
      ... on ValidationProblem {
        path
      }
    }
  }
`)

export const grantCreditMutation = graphql(`
  mutation GrantCredit($input: GrantCreditInput!) {
    grantCredit(input: $input) {
      __typename
      ... on GrantCreditPayload {
        credit {
          reason
          amount {
            formatted
          }
        }
      }
    }
  }
`)

export const pricesQuery = graphql(`
  query Prices($model: String, $tenantId: ID!) {
    prices(model: $model) {
      model
      version
      inputNanos
    }
    tenantPrices(tenantId: $tenantId) {
      model
      version
      marginBasisPoints
    }
  }
`)

export const quoteQuery = graphql(`
  query Quote($content: String!, $conversationId: ID) {
    quoteRun(content: $content, conversationId: $conversationId) {
      model
      leastTokens
      mostTokens
      least {
        micros
      }
      most {
        micros
      }
    }
  }
`)

export const simulatePlanQuery = graphql(`
  query SimulatePlan($tenantId: ID!, $plan: Plan!, $range: DateRange!) {
    simulatePlan(tenantId: $tenantId, plan: $plan, range: $range) {
      plan
      messages
      refused {
        limit
        messages
      }
      cutShort
      cost {
        micros
      }
      actualCost {
        micros
      }
    }
  }
`)

export const costQuery = graphql(`
  query Cost($runId: ID!) {
    run(id: $runId) {
      cost {
        micros
      }
      conversation {
        cost {
          micros
        }
      }
    }
  }
`)
