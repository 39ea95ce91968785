-- compatible since 1
-- What clients of ComfyUI ask for beside their prompts.

CREATE TABLE comfyui_nodes (  -- one row
    key         text PRIMARY KEY,
    digest      text NOT NULL,   -- SHA-256 of the content, hex
    content     bytea NOT NULL,  -- JSON by gzip: nodes and models, as a replica's ComfyUI described them
    reported_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE comfyui_nodes ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TABLE comfyui_files (
    tenant     text NOT NULL,
    path       text NOT NULL,   -- such as `workflows/portrait.json`
    content    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, path)
);
ALTER TABLE comfyui_files ALTER COLUMN content SET STORAGE EXTERNAL;
