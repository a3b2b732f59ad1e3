import { graphql } from '../generated/gql.ts'

export const viewerQuery = graphql(`
  query Viewer {
    viewer {
      role
      userId
      actorName
      tenant {
        id
        name
        plan
        status
        createdAt
      }
    }
  }
`)
