"""The GPU as arithmetic: data sheets, cost of operations, fusion, the timeline of a call. Needs no device."""
