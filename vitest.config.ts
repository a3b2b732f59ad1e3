import { defineConfig } from 'vitest/config'
import { rules } from './test/isolation/rules.ts'
import { partyTags, tableOf, wallTags } from './test/isolation/tags.ts'

// Without these conditions vitest loads two copies of graphql, CommonJS and ES module, whose types refuse each other.
const conditions = ['module-sync', 'node']

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    tags: [
      ...rules.map(({ tag, title }) => ({ name: tag, description: title })),
      ...[...wallTags, ...partyTags, ...tableOf.values()].map((name) => ({ name })),
    ],
    pool: 'forks',
    // Importing the product takes a second: files share it, and what they need of their own they make.
    isolate: false,
    maxWorkers: 2,
    testTimeout: 40_000,
    hookTimeout: 60_000,
    teardownTimeout: 15_000,
  },
})
