"""Snapshots: directories published as sealed, immutable buckets of links, and installed atomically (DESIGN section 7).

Reading order:

    what there is        `repository` (snapshots and channels in the store), `signing`
    publishing           `tree` (what is to be published), `content` (objects by digest), `fill`, `publish`
    installing           `fetch` (what a snapshot says, and its bytes), `install`, `hooks`
    seeing               `stored`, `complete` (all is there), `check` (every byte is right)
    keeping house        `moves` (promote, roll back), `prune`
    the loops            `changes`, `publication`, `subscription`; `report`

The pure parts (manifests, channel records) are `core.manifest` and `core.channels`; what is done to the disk is
`directory.versions`.
"""
