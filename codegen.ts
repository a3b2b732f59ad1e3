import type { CodegenConfig } from '@graphql-codegen/cli'

/** Typed operations for the tests, from the `graphql(…)` documents in test/operations. Run by `npm run codegen`. */
const config: CodegenConfig = {
  schema: './schema.graphql',
  documents: ['test/operations/**/*.ts'],
  generates: {
    './test/generated/': {
      preset: 'client',
      presetConfig: { fragmentMasking: false },
      config: {
        enumsAsTypes: true,
        useTypeImports: true,
        importExtension: '.ts',
        emitLegacyCommonJSImports: false,
        strictScalars: true,
        scalars: { DateTime: 'string', BigInt: 'number | string', JSONObject: 'Record<string, unknown>' },
      },
    },
  },
}

export default config
