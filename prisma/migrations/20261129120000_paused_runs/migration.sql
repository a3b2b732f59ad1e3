-- AlterTable
ALTER TABLE "runs" ADD COLUMN     "excused_claims" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "resume_at" TIMESTAMPTZ(3);

GRANT UPDATE (resume_at, excused_claims) ON runs TO bulkhead_app;
