import { graphql } from '../generated/gql.ts'

export const conversationQuery = graphql(`
  query Conversation($id: ID!) {
    conversation(id: $id) {
      id
      title
      userId
      createdAt
      updatedAt
      agent {
        name
        config {
          version
        }
      }
      messages(first: 50) {
        edges {
          node {
            id
            role
            content
            tokensUsed
            run {
              id
            }
          }
        }
      }
      runs(first: 50) {
        edges {
          node {
            id
            status
          }
        }
      }
    }
  }
`)

export const conversationsQuery = graphql(`
  query Conversations($first: Int, $after: String, $last: Int, $before: String, $filter: ConversationFilter) {
    conversations(first: $first, after: $after, last: $last, before: $before, filter: $filter) {
      edges {
        cursor
        node {
          id
          title
        }
      }
      pageInfo {
        hasNextPage
        hasPreviousPage
        startCursor
        endCursor
      }
    }
  }
`)

export const createConversationMutation = graphql(`
  mutation CreateConversation($input: CreateConversationInput!) {
    createConversation(input: $input) {
      __typename
      ... on CreateConversationPayload {
        conversation {
          id
          title
          userId
        }
      }
      ... on Problem {
        code
        message
      }
      ... on ValidationProblem {
        path
      }
    }
  }
`)

export const renameConversationMutation = graphql(`
  mutation RenameConversation($input: RenameConversationInput!) {
    renameConversation(input: $input) {
      __typename
      ... on RenameConversationPayload {
        conversation {
          id
          title
        }
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)

export const deleteConversationMutation = graphql(`
  mutation DeleteConversation($input: DeleteConversationInput!) {
    deleteConversation(input: $input) {
      __typename
      ... on DeleteConversationPayload {
        deletedConversationId
      }
      ... on Problem {
        code
        message
      }
    }
  }
`)
