import { graphql } from '../generated/gql.ts'

export const quotaQuery = graphql(`
  query Quota($tenantId: ID) {
    quota(tenantId: $tenantId) {
      plan
      limits {
        limit
        max
        used
        reserved
        remaining
        resetAt
      }
    }
  }
`)

export const quotaChangedSubscription = graphql(`
  subscription QuotaChanged {
    quotaChanged {
      plan
      limits {
        limit
        max
        used
      }
    }
  }
`)

export const limitedMessageMutation = graphql(`
  mutation LimitedMessage($input: SendMessageInput!) {
    sendMessage(input: $input) {
      __typename
      ... on SendMessagePayload {
        userMessage {
          id
        }
        run {
          id
        }
      }
      ... on Problem {
        code
        message
      }
      ... on QuotaExceeded {
        limit
        scope
        max
        remaining
        retryAfterSeconds
        resetAt
      }
      ... on BudgetExhausted {
        limit
        scope
        max
        remaining
        retryAfterSeconds
        resetAt
      }
    }
  }
`)

export const changePlanMutation = graphql(`
  mutation ChangePlan($input: ChangePlanInput!) {
    changePlan(input: $input) {
      __typename
      ... on ChangePlanPayload {
        tenant {
          plan
        }
      }
    }
  }
`)

export const setQuotaOverrideMutation = graphql(`
  mutation SetQuotaOverride($input: SetQuotaOverrideInput!) {
    setQuotaOverride(input: $input) {
      __typename
      ... on SetQuotaOverridePayload {
        override {
          limit
          max
          reason
          expiresAt
        }
      }
      ... on Problem {
        message
      }
      ... on ValidationProblem {
        path
      }
    }
  }
`)

export const clearQuotaOverrideMutation = graphql(`
  mutation ClearQuotaOverride($input: ClearQuotaOverrideInput!) {
    clearQuotaOverride(input: $input) {
      __typename
    }
  }
`)

export const updateTenantSettingsMutation = graphql(`
  mutation UpdateTenantSettings($input: UpdateTenantSettingsInput!) {
    updateTenantSettings(input: $input) {
      __typename
      ... on UpdateTenantSettingsPayload {
        tenant {
          settings {
            timeZone
            quotaThresholds
            budgetBehaviour
            downgradeModel
            downgradeAt
          }
        }
      }
      ... on Problem {
        message
      }
      ... on ValidationProblem {
        path
      }
    }
  }
`)

export const tenantSettingsQuery = graphql(`
  query TenantSettings($id: ID) {
    tenant(id: $id) {
      settings {
        timeZone
        quotaThresholds
        budgetBehaviour
        downgradeModel
        downgradeAt
      }
    }
  }
`)
