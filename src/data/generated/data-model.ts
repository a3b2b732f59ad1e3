// Written by prisma/data-model-generator.ts; do not edit.
export type Relation = { model: string; list: boolean; required: boolean; from: readonly string[] }
export type ModelShape = {
  table: string
  /** The fields of the primary key. */
  key: readonly string[]
  scalars: readonly string[]
  relations: Readonly<Record<string, Relation>>
  compoundKeys: Readonly<Record<string, readonly string[]>>
}

export const dataModel: Readonly<Record<string, ModelShape>> = {
  "PlanLimits": {
    "table": "plans",
    "key": [
      "plan"
    ],
    "scalars": [
      "plan",
      "messagesPerMinute",
      "messagesPerDay",
      "tokensPerMessage",
      "concurrentSessions",
      "monthlyTokens",
      "weight"
    ],
    "relations": {},
    "compoundKeys": {}
  },
  "Tenant": {
    "table": "tenants",
    "key": [
      "id"
    ],
    "scalars": [
      "id",
      "name",
      "plan",
      "status",
      "defaultAgentId",
      "accessVersion",
      "fencedAt",
      "databaseId",
      "limitsVersion",
      "timeZone",
      "pastTimeZones",
      "quotaThresholds",
      "budgetBehaviour",
      "downgradeModel",
      "downgradeAt",
      "modelKeySecret",
      "modelBaseUrl",
      "createdAt"
    ],
    "relations": {
      "defaultAgent": {
        "model": "Agent",
        "list": false,
        "required": false,
        "from": [
          "id",
          "defaultAgentId"
        ]
      },
      "members": {
        "model": "Member",
        "list": true,
        "required": true,
        "from": []
      },
      "apiKeys": {
        "model": "ApiKey",
        "list": true,
        "required": true,
        "from": []
      },
      "agents": {
        "model": "Agent",
        "list": true,
        "required": true,
        "from": []
      },
      "agentConfigs": {
        "model": "AgentConfig",
        "list": true,
        "required": true,
        "from": []
      },
      "conversations": {
        "model": "Conversation",
        "list": true,
        "required": true,
        "from": []
      },
      "messages": {
        "model": "Message",
        "list": true,
        "required": true,
        "from": []
      },
      "runs": {
        "model": "Run",
        "list": true,
        "required": true,
        "from": []
      },
      "toolCalls": {
        "model": "ToolCall",
        "list": true,
        "required": true,
        "from": []
      },
      "usageRecords": {
        "model": "UsageRecord",
        "list": true,
        "required": true,
        "from": []
      },
      "callAttempts": {
        "model": "ModelCallAttempt",
        "list": true,
        "required": true,
        "from": []
      },
      "idempotencyKeys": {
        "model": "IdempotencyKey",
        "list": true,
        "required": true,
        "from": []
      },
      "auditEvents": {
        "model": "AuditEvent",
        "list": true,
        "required": true,
        "from": []
      },
      "dataKeys": {
        "model": "DataKey",
        "list": true,
        "required": true,
        "from": []
      },
      "secrets": {
        "model": "Secret",
        "list": true,
        "required": true,
        "from": []
      },
      "userPseudonyms": {
        "model": "UserPseudonym",
        "list": true,
        "required": true,
        "from": []
      },
      "exports": {
        "model": "TenantExport",
        "list": true,
        "required": true,
        "from": []
      },
      "quotaOverrides": {
        "model": "QuotaOverride",
        "list": true,
        "required": true,
        "from": []
      },
      "notifications": {
        "model": "Notification",
        "list": true,
        "required": true,
        "from": []
      },
      "webhooks": {
        "model": "Webhook",
        "list": true,
        "required": true,
        "from": []
      },
      "tools": {
        "model": "Tool",
        "list": true,
        "required": true,
        "from": []
      },
      "outbox": {
        "model": "OutboxEntry",
        "list": true,
        "required": true,
        "from": []
      },
      "prices": {
        "model": "TenantPrice",
        "list": true,
        "required": true,
        "from": []
      },
      "credits": {
        "model": "Credit",
        "list": true,
        "required": true,
        "from": []
      },
      "usageRollups": {
        "model": "UsageRollup",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "id_defaultAgentId": [
        "id",
        "defaultAgentId"
      ]
    }
  },
  "Member": {
    "table": "members",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "name",
      "email",
      "role",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "apiKeys": {
        "model": "ApiKey",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_email": [
        "tenantId",
        "email"
      ]
    }
  },
  "ApiKey": {
    "table": "api_keys",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "name",
      "role",
      "userId",
      "memberId",
      "secretHash",
      "pepperVersion",
      "createdAt",
      "expiresAt",
      "revokedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "member": {
        "model": "Member",
        "list": false,
        "required": false,
        "from": [
          "tenantId",
          "memberId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "Agent": {
    "table": "agents",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "slug",
      "name",
      "activeVersion",
      "canaryVersion",
      "canaryPercent",
      "createdAt",
      "archivedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "defaultOf": {
        "model": "Tenant",
        "list": false,
        "required": false,
        "from": []
      },
      "configs": {
        "model": "AgentConfig",
        "list": true,
        "required": true,
        "from": []
      },
      "conversations": {
        "model": "Conversation",
        "list": true,
        "required": true,
        "from": []
      },
      "runs": {
        "model": "Run",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_slug": [
        "tenantId",
        "slug"
      ]
    }
  },
  "AgentConfig": {
    "table": "agent_configs",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "agentId",
      "version",
      "status",
      "systemPrompt",
      "systemPromptTokens",
      "contextWindow",
      "model",
      "fallbackModels",
      "temperature",
      "maxOutputTokens",
      "maxTurns",
      "enabledTools",
      "branding",
      "historyPolicy",
      "historyExchanges",
      "handoffAgentIds",
      "budgetBehaviour",
      "createdAt",
      "publishedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "agent": {
        "model": "Agent",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "agentId"
        ]
      },
      "runs": {
        "model": "Run",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_agentId_version": [
        "tenantId",
        "agentId",
        "version"
      ]
    }
  },
  "Conversation": {
    "table": "conversations",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "agentId",
      "userId",
      "title",
      "createdAt",
      "updatedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "agent": {
        "model": "Agent",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "agentId"
        ]
      },
      "messages": {
        "model": "Message",
        "list": true,
        "required": true,
        "from": []
      },
      "runs": {
        "model": "Run",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "Message": {
    "table": "messages",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "conversationId",
      "runId",
      "userId",
      "role",
      "content",
      "tokensUsed",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "conversation": {
        "model": "Conversation",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "conversationId"
        ]
      },
      "run": {
        "model": "Run",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "runId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_runId_role": [
        "tenantId",
        "runId",
        "role"
      ]
    }
  },
  "Run": {
    "table": "runs",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "conversationId",
      "agentId",
      "userId",
      "status",
      "epoch",
      "excusedClaims",
      "workerId",
      "configVersion",
      "model",
      "downgradedFrom",
      "turns",
      "finishReason",
      "failureCode",
      "failureMessage",
      "cancelRequestedAt",
      "apiKeyId",
      "createdAt",
      "queuedAt",
      "resumeAt",
      "startedAt",
      "finishedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "conversation": {
        "model": "Conversation",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "conversationId"
        ]
      },
      "agent": {
        "model": "Agent",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "agentId"
        ]
      },
      "config": {
        "model": "AgentConfig",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "agentId",
          "configVersion"
        ]
      },
      "messages": {
        "model": "Message",
        "list": true,
        "required": true,
        "from": []
      },
      "toolCalls": {
        "model": "ToolCall",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "ToolCall": {
    "table": "tool_calls",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "runId",
      "userId",
      "turn",
      "place",
      "callId",
      "name",
      "arguments",
      "argumentsHash",
      "status",
      "epoch",
      "result",
      "expiresAt",
      "decidedAt",
      "decidedBy",
      "reason",
      "createdAt",
      "startedAt",
      "finishedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "run": {
        "model": "Run",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "runId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_runId_turn_place": [
        "tenantId",
        "runId",
        "turn",
        "place"
      ]
    }
  },
  "UsageRecord": {
    "table": "usage_records",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "conversationId",
      "runId",
      "userPseudonym",
      "agentId",
      "configVersion",
      "turn",
      "call",
      "attempt",
      "correction",
      "correctsId",
      "model",
      "inputTokens",
      "cachedInputTokens",
      "outputTokens",
      "reasoningTokens",
      "estimated",
      "costNanos",
      "currency",
      "priceId",
      "tenantPriceId",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "price": {
        "model": "Price",
        "list": false,
        "required": false,
        "from": [
          "priceId"
        ]
      },
      "tenantPrice": {
        "model": "TenantPrice",
        "list": false,
        "required": false,
        "from": [
          "tenantId",
          "tenantPriceId"
        ]
      },
      "corrects": {
        "model": "UsageRecord",
        "list": false,
        "required": false,
        "from": [
          "tenantId",
          "correctsId"
        ]
      },
      "corrections": {
        "model": "UsageRecord",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_runId_turn_call_attempt_correction": [
        "tenantId",
        "runId",
        "turn",
        "call",
        "attempt",
        "correction"
      ]
    }
  },
  "ModelCallAttempt": {
    "table": "model_call_attempts",
    "key": [
      "tenantId",
      "runId",
      "turn",
      "call",
      "attempt"
    ],
    "scalars": [
      "tenantId",
      "runId",
      "turn",
      "call",
      "attempt",
      "conversationId",
      "userPseudonym",
      "agentId",
      "configVersion",
      "model",
      "priceId",
      "tenantPriceId",
      "inputTokens",
      "outputBound",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "price": {
        "model": "Price",
        "list": false,
        "required": false,
        "from": [
          "priceId"
        ]
      },
      "tenantPrice": {
        "model": "TenantPrice",
        "list": false,
        "required": false,
        "from": [
          "tenantId",
          "tenantPriceId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_runId_turn_call_attempt": [
        "tenantId",
        "runId",
        "turn",
        "call",
        "attempt"
      ]
    }
  },
  "Price": {
    "table": "prices",
    "key": [
      "id"
    ],
    "scalars": [
      "id",
      "model",
      "version",
      "currency",
      "inputNanos",
      "cachedInputNanos",
      "outputNanos",
      "validFrom",
      "validTo",
      "createdBy",
      "createdAt"
    ],
    "relations": {
      "usageRecords": {
        "model": "UsageRecord",
        "list": true,
        "required": true,
        "from": []
      },
      "callAttempts": {
        "model": "ModelCallAttempt",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "model_version": [
        "model",
        "version"
      ]
    }
  },
  "TenantPrice": {
    "table": "tenant_prices",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "model",
      "version",
      "inputNanos",
      "cachedInputNanos",
      "outputNanos",
      "marginBasisPoints",
      "validFrom",
      "validTo",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "usageRecords": {
        "model": "UsageRecord",
        "list": true,
        "required": true,
        "from": []
      },
      "callAttempts": {
        "model": "ModelCallAttempt",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_model_version": [
        "tenantId",
        "model",
        "version"
      ]
    }
  },
  "Credit": {
    "table": "credits",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "amountNanos",
      "currency",
      "reason",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "UsageRollup": {
    "table": "usage_rollups",
    "key": [
      "tenantId",
      "bucket",
      "part"
    ],
    "scalars": [
      "tenantId",
      "bucket",
      "part",
      "model",
      "agentId",
      "configVersion",
      "priceId",
      "tenantPriceId",
      "currency",
      "isCorrection",
      "estimated",
      "calls",
      "inputTokens",
      "cachedInputTokens",
      "outputTokens",
      "reasoningTokens",
      "costNanos"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_bucket_part": [
        "tenantId",
        "bucket",
        "part"
      ]
    }
  },
  "IdempotencyKey": {
    "table": "idempotency_keys",
    "key": [
      "tenantId",
      "actor",
      "mutation",
      "key"
    ],
    "scalars": [
      "tenantId",
      "actor",
      "mutation",
      "key",
      "inputHash",
      "resultId",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_actor_mutation_key": [
        "tenantId",
        "actor",
        "mutation",
        "key"
      ]
    }
  },
  "QuotaOverride": {
    "table": "quota_overrides",
    "key": [
      "tenantId",
      "limit"
    ],
    "scalars": [
      "tenantId",
      "limit",
      "max",
      "reason",
      "expiresAt",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_limit": [
        "tenantId",
        "limit"
      ]
    }
  },
  "Notification": {
    "table": "notifications",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "kind",
      "dedupeKey",
      "title",
      "body",
      "details",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "outbox": {
        "model": "OutboxEntry",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_dedupeKey": [
        "tenantId",
        "dedupeKey"
      ]
    }
  },
  "Tool": {
    "table": "tools",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "kind",
      "name",
      "description",
      "definition",
      "createdAt",
      "updatedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_name": [
        "tenantId",
        "name"
      ]
    }
  },
  "Webhook": {
    "table": "webhooks",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "url",
      "description",
      "events",
      "failingSince",
      "ciphertext",
      "dataKeyId",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "dataKey": {
        "model": "DataKey",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "dataKeyId"
        ]
      },
      "outbox": {
        "model": "OutboxEntry",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "OutboxEntry": {
    "table": "outbox",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "channel",
      "notificationId",
      "webhookId",
      "payload",
      "status",
      "attempts",
      "dueAt",
      "lastFailure",
      "createdAt",
      "finishedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "notification": {
        "model": "Notification",
        "list": false,
        "required": false,
        "from": [
          "tenantId",
          "notificationId"
        ]
      },
      "webhook": {
        "model": "Webhook",
        "list": false,
        "required": false,
        "from": [
          "tenantId",
          "webhookId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "OperatorKey": {
    "table": "operator_keys",
    "key": [
      "id"
    ],
    "scalars": [
      "id",
      "name",
      "secretHash",
      "pepperVersion",
      "createdAt",
      "revokedAt"
    ],
    "relations": {},
    "compoundKeys": {}
  },
  "Worker": {
    "table": "workers",
    "key": [
      "id"
    ],
    "scalars": [
      "id",
      "startedAt",
      "heartbeatAt"
    ],
    "relations": {},
    "compoundKeys": {}
  },
  "AuditEvent": {
    "table": "audit_events",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "actorKind",
      "actorId",
      "actorName",
      "action",
      "subject",
      "subjectId",
      "details",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "DataKey": {
    "table": "data_keys",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "wrappedKey",
      "wrappingKeyId",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "secrets": {
        "model": "Secret",
        "list": true,
        "required": true,
        "from": []
      },
      "webhooks": {
        "model": "Webhook",
        "list": true,
        "required": true,
        "from": []
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "Secret": {
    "table": "secrets",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "name",
      "ciphertext",
      "dataKeyId",
      "createdAt",
      "updatedAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      },
      "dataKey": {
        "model": "DataKey",
        "list": false,
        "required": true,
        "from": [
          "tenantId",
          "dataKeyId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_name": [
        "tenantId",
        "name"
      ]
    }
  },
  "UserPseudonym": {
    "table": "user_pseudonyms",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "userId",
      "createdAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ],
      "tenantId_userId": [
        "tenantId",
        "userId"
      ]
    }
  },
  "TenantExport": {
    "table": "tenant_exports",
    "key": [
      "tenantId",
      "id"
    ],
    "scalars": [
      "id",
      "tenantId",
      "status",
      "apiKeyId",
      "rowsTotal",
      "rowsSent",
      "createdAt",
      "finishedAt",
      "expiresAt"
    ],
    "relations": {
      "tenant": {
        "model": "Tenant",
        "list": false,
        "required": true,
        "from": [
          "tenantId"
        ]
      }
    },
    "compoundKeys": {
      "tenantId_id": [
        "tenantId",
        "id"
      ]
    }
  },
  "OperatorIdempotencyKey": {
    "table": "operator_idempotency_keys",
    "key": [
      "operatorId",
      "mutation",
      "key"
    ],
    "scalars": [
      "operatorId",
      "mutation",
      "key",
      "inputHash",
      "resultId",
      "createdAt"
    ],
    "relations": {},
    "compoundKeys": {
      "operatorId_mutation_key": [
        "operatorId",
        "mutation",
        "key"
      ]
    }
  },
  "Erasure": {
    "table": "erasures",
    "key": [
      "id"
    ],
    "scalars": [
      "id",
      "operatorId",
      "operatorName",
      "requestedAt",
      "finishedAt",
      "found",
      "erased",
      "retained",
      "backupsExpireAt"
    ],
    "relations": {},
    "compoundKeys": {}
  },
  "Database": {
    "table": "databases",
    "key": [
      "id"
    ],
    "scalars": [
      "id",
      "name",
      "appUrl",
      "platformUrl",
      "adminUrl",
      "keyId",
      "createdAt"
    ],
    "relations": {},
    "compoundKeys": {}
  },
  "TenantMove": {
    "table": "tenant_moves",
    "key": [
      "id"
    ],
    "scalars": [
      "id",
      "sourceId",
      "targetId",
      "phase",
      "tables",
      "startedAt",
      "finishedAt"
    ],
    "relations": {},
    "compoundKeys": {}
  }
}
