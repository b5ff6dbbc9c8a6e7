"""The negative log likelihood of rows by their classes, and its gradient, in one pass each.

Written as IR by hand: they pick elements by an index, which no loop over elements can. A class that
is not there stores 1 into `bad` and ends; who called lets the table's kernel say what is wrong.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Final

from . import native
from .nest import NAME

log = logging.getLogger("farspan.worker")

#: Scores in float32, classes in int64. The sum is taken in double.
_FORWARD: Final = f"""
define void @{NAME}(ptr %scores, ptr %target, ptr %loss, ptr %total, ptr %bad, i64 %rows, \
i64 %classes, i64 %ignored, i64 %mean) #0 {{
entry:
  %any = icmp sgt i64 %rows, 0
  br i1 %any, label %row, label %done
row:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %sum = phi double [ 0.0, %entry ], [ %sum.next, %next ]
  %count = phi double [ 0.0, %entry ], [ %count.next, %next ]
  %at = getelementptr i64, ptr %target, i64 %i
  %class = load i64, ptr %at
  %skip = icmp eq i64 %class, %ignored
  br i1 %skip, label %next, label %look
look:
  %there = icmp ult i64 %class, %classes
  br i1 %there, label %take, label %wrong
wrong:
  store i64 1, ptr %bad
  ret void
take:
  %begin = mul i64 %i, %classes
  %place = add i64 %begin, %class
  %from = getelementptr float, ptr %scores, i64 %place
  %score = load float, ptr %from
  %wide = fpext float %score to double
  %less = fsub double %sum, %wide
  %more = fadd double %count, 1.0
  br label %next
next:
  %sum.next = phi double [ %sum, %row ], [ %less, %take ]
  %count.next = phi double [ %count, %row ], [ %more, %take ]
  %i.next = add nuw nsw i64 %i, 1
  %again = icmp slt i64 %i.next, %rows
  br i1 %again, label %row, label %done
done:
  %all = phi double [ 0.0, %entry ], [ %sum.next, %next ]
  %kept = phi double [ 0.0, %entry ], [ %count.next, %next ]
  %each = fdiv double %all, %kept
  %means = icmp ne i64 %mean, 0
  %found = select i1 %means, double %each, double %all
  %loss.short = fptrunc double %found to float
  store float %loss.short, ptr %loss
  %total.short = fptrunc double %kept to float
  store float %total.short, ptr %total
  ret void
}}
attributes #0 = {{ nounwind }}
"""
_BACKWARD: Final = f"""
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define void @{NAME}(ptr %g, ptr %target, ptr %total, ptr %out, ptr %bad, i64 %rows, \
i64 %classes, i64 %ignored, i64 %mean) #0 {{
entry:
  %given = load float, ptr %g
  %minus = fneg float %given
  %all = load float, ptr %total
  %each = fdiv float %minus, %all
  %means = icmp ne i64 %mean, 0
  %value = select i1 %means, float %each, float %minus
  %elements = mul i64 %rows, %classes
  %bytes = mul i64 %elements, 4
  call void @llvm.memset.p0.i64(ptr %out, i8 0, i64 %bytes, i1 false)
  %any = icmp sgt i64 %rows, 0
  br i1 %any, label %row, label %done
row:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %at = getelementptr i64, ptr %target, i64 %i
  %class = load i64, ptr %at
  %skip = icmp eq i64 %class, %ignored
  br i1 %skip, label %next, label %look
look:
  %there = icmp ult i64 %class, %classes
  br i1 %there, label %put, label %wrong
wrong:
  store i64 1, ptr %bad
  ret void
put:
  %begin = mul i64 %i, %classes
  %place = add i64 %begin, %class
  %to = getelementptr float, ptr %out, i64 %place
  store float %value, ptr %to
  br label %next
next:
  %i.next = add nuw nsw i64 %i, 1
  %again = icmp slt i64 %i.next, %rows
  br i1 %again, label %row, label %done
done:
  ret void
}}
attributes #0 = {{ nounwind }}
"""


@functools.cache
def _loaded(text: str) -> tuple[native.Code, Any]:
    code = native.Code(native.to_object(text))
    return code, native.function(code.address, 5, ("i",) * 4)


def forward() -> Any:
    """Return a function of addresses of scores, target, loss, total weight and bad, then of rows,
    classes, the class that is ignored, and whether the mean is meant."""
    return _loaded(_FORWARD)[1]


def backward() -> Any:
    """Return a function of addresses of the loss's gradient, target, total weight, the result and
    bad, then as `forward`. It gives the bits of the table's kernel."""
    return _loaded(_BACKWARD)[1]


def prepare() -> None:
    """Have both compiled, on a thread of their own, before somebody has to wait for it."""
    native.be_behind()
    try:
        forward(), backward()
    except Exception as error:  # who needs one hears of it
        log.debug("losses: %s", error)
