import { DateTimeResolver, GraphQLBigInt, JSONObjectResolver } from 'graphql-scalars'
import { builder } from './builder.ts'

builder.addScalarType('DateTime', DateTimeResolver)
builder.addScalarType('BigInt', GraphQLBigInt)
builder.addScalarType('JSONObject', JSONObjectResolver)
