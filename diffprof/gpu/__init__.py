"""The GPU as arithmetic: data sheets, kernel tables, cost of operations, fusion, the timeline of a call.
Needs no device."""
