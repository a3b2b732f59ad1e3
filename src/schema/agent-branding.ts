import type { Branding, BrandingInput } from '../domain/agent-branding.ts'
import { builder } from './builder.ts'

const descriptions: Record<keyof Branding, string> = {
  name: 'What the agent calls itself. At most 100 bytes.',
  primaryColor: 'The colour of what stands out, as in #0a7f5c.',
  backgroundColor: 'The colour behind it, as in #ffffff.',
  logoUrl: 'Its logo: an https URL, which the platform never fetches. At most 2,000 bytes.',
  greeting: 'What it says before anybody has said anything. At most 2,000 bytes.',
}

export const AgentBranding = builder.objectRef<Branding>('AgentBranding').implement({
  description: "How the tenant's frontends present an agent. What is null is up to them. End users see it.",
  authScopes: { endUser: true },
  fields: (t) => ({
    name: t.exposeString('name', { nullable: true, description: descriptions.name }),
    primaryColor: t.exposeString('primaryColor', { nullable: true, description: descriptions.primaryColor }),
    backgroundColor: t.exposeString('backgroundColor', { nullable: true, description: descriptions.backgroundColor }),
    logoUrl: t.exposeString('logoUrl', { nullable: true, description: descriptions.logoUrl }),
    greeting: t.exposeString('greeting', { nullable: true, description: descriptions.greeting }),
  }),
})

export const AgentBrandingInput = builder.inputRef<BrandingInput>('AgentBrandingInput').implement({
  description: "How the tenant's frontends present an agent. Takes the place of all that was there before.",
  fields: (t) => ({
    name: t.string({ description: descriptions.name }),
    primaryColor: t.string({ description: descriptions.primaryColor }),
    backgroundColor: t.string({ description: descriptions.backgroundColor }),
    logoUrl: t.string({ description: descriptions.logoUrl }),
    greeting: t.string({ description: descriptions.greeting }),
  }),
})
